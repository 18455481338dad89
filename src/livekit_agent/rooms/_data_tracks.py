"""Data tracks: named flows of frames of bytes, sent to whoever subscribes, late ones not at all.

What a track carries is like sound and pictures: each frame is worth something now, and nobody waits for a lost one.
A sender pushes, without waiting (``_data_senders``); a frame for which the connection has no room is dropped and
counted.  A receiver iterates over a bounded queue of its own (``_data_receivers``).  Here is what both sides share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .._errors import DataTrackError
from ._link import Link
from ._proto import data_track

__all__ = [
    "DataFrame",
    "DataSchema",
    "DataTrack",
    "Overflow",
    "frame_encoding",
    "info_message",
    "unpublished_error",
]

_SCHEMA_PREFIX = "WELL_KNOWN_SCHEMA_ENCODING_"
_FRAME_PREFIX = "WELL_KNOWN_FRAME_ENCODING_"


class Overflow(Enum):
    """What a full queue does with one frame more."""

    DROP_OLDEST = "drop oldest"
    DROP_NEWEST = "drop newest"
    FAIL = "fail"
    """The iteration ends with :class:`~livekit_agent.ResourceExhaustedError`, after the frames that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFrame:
    """A frame of a data track."""

    payload: bytes = field(repr=False)
    timestamp: int | None = None
    """The sender's own, in whatever unit sender and receiver have agreed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSchema:
    """Which schema a track's frames follow."""

    name: str
    encoding: str = ""
    """What the schema is written in: protobuf, flatbuffer, ros1_msg, ros2_msg, ros2_idl, omg_idl, json_schema, or a
    name of your own."""

    def message(self) -> data_track.DataTrackSchemaId:
        """As the library's message."""
        message = data_track.DataTrackSchemaId(name=self.name)
        if self.encoding:
            encoding: Any = _encoded(self.encoding, _SCHEMA_PREFIX, data_track.DataTrackSchemaEncoding)
            message.encoding.CopyFrom(encoding)
        return message

    @classmethod
    def of(cls, message: data_track.DataTrackSchemaId) -> DataSchema:
        """From the library's message."""
        return cls(name=message.name, encoding=_decoded(message.encoding, _SCHEMA_PREFIX))


def _encoded(text: str, prefix: str, kind: Any) -> Any:
    """An encoding's name as the library's message: one that it knows, or a custom one."""
    number = _numbers(kind).get(prefix + text.upper())
    return kind(custom=text) if number is None else kind(well_known=number)


def frame_encoding(name: str) -> data_track.DataTrackFrameEncoding:
    """The message for how frames are encoded: a well-known name, or one of somebody's own."""
    return _encoded(name, _FRAME_PREFIX, data_track.DataTrackFrameEncoding)


def _decoded(message: Any, prefix: str) -> str:
    if message.HasField("well_known"):
        names = {number: name for name, number in _numbers(type(message)).items()}
        return names.get(message.well_known, "").removeprefix(prefix).lower()
    return message.custom


def _numbers(kind: Any) -> dict[str, int]:
    values = kind.DESCRIPTOR.fields_by_name["well_known"].enum_type.values
    return {value.name: value.number for value in values if value.number}


def info_message(sid: str, options: data_track.DataTrackOptions, *, uses_e2ee: bool) -> data_track.DataTrackInfo:
    """What the library says of a track with these options (for rooms in memory)."""
    info = data_track.DataTrackInfo(name=options.name, sid=sid, uses_e2ee=uses_e2ee)
    if options.HasField("schema"):
        info.schema.CopyFrom(options.schema)
    if options.HasField("frame_encoding"):
        info.frame_encoding.CopyFrom(options.frame_encoding)
    return info


class DataTrack:
    """What all data tracks tell."""

    def __init__(self, handle_id: int, info: data_track.DataTrackInfo, link: Link) -> None:
        self._handle = link.own(handle_id)
        self._info = info
        self._link = link

    @property
    def name(self) -> str:
        """Its publisher's name for it; unique among that participant's data tracks."""
        return self._info.name

    @property
    def sid(self) -> str:
        """The server's id, ``DTR_…``; another one after its publisher's full reconnect."""
        return self._info.sid

    @property
    def encrypted(self) -> bool:
        """Whether its frames are encrypted end to end."""
        return self._info.uses_e2ee

    @property
    def schema(self) -> DataSchema | None:
        """Which schema its frames follow, where the publisher says so."""
        return DataSchema.of(self._info.schema) if self._info.HasField("schema") else None

    @property
    def encoding(self) -> str:
        """How its frames are encoded, where the publisher says so."""
        return _decoded(self._info.frame_encoding, _FRAME_PREFIX)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.sid}>"


def unpublished_error() -> DataTrackError:
    """Why a track that is no longer there cannot be used."""
    return DataTrackError("the data track is no longer published", code="DATA_TRACK_UNPUBLISHED")
