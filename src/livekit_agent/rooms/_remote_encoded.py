"""Compressed video to a room in another process: what the library would answer at once, known at a distance.

Two questions.  *Was the picture taken?*  It is when a track of its source is published, which is seen in what passes
by.  *What do the receivers ask for?*  The server tells of it by itself, as a message of its own, whenever there is
something new; it is kept here until somebody asks, a wish for a key frame until it is told, of bitrates the latest.
"""

from __future__ import annotations

from typing import Any

from ._proto import ffi, video
from ._remote_wire import feedback

__all__ = ["EncodedSources"]


class EncodedSources:
    """One participant's."""

    def __init__(self) -> None:
        self._told: dict[int, video.TakeEncodedVideoSourceFeedbackResponse] = {}
        """By source, each that takes compressed pictures: what nobody has asked for yet."""
        self._tracks: dict[int, int] = {}  # track handle -> source
        self._publishing: dict[int, int] = {}  # async id -> source
        self._published: dict[str, int] = {}  # sid -> source

    def asked(self, kind: str, asked: Any, number: int) -> None:
        """A request that is on its way; ``number`` is the handle that it gives."""
        if kind == "new_video_source" and asked.type == video.VIDEO_SOURCE_ENCODED:
            self._told[number] = video.TakeEncodedVideoSourceFeedbackResponse()
        elif kind == "create_video_track" and asked.source_handle in self._told:
            self._tracks[number] = asked.source_handle
        elif kind == "publish_track" and asked.track_handle in self._tracks:
            self._publishing[asked.request_async_id] = self._tracks[asked.track_handle]

    def dropped(self, handle_id: int) -> None:
        """A handle was given back."""
        self._told.pop(handle_id, None)
        self._tracks.pop(handle_id, None)

    def hear(self, event: ffi.FfiEvent) -> None:
        """An event from the server."""
        if event.HasField("publish_track"):
            source = self._publishing.pop(event.publish_track.async_id, None)
            if source is not None and event.publish_track.HasField("publication"):
                self._published[event.publish_track.publication.info.sid] = source
        elif event.HasField("room_event"):
            change = event.room_event
            if change.HasField("local_track_republished"):
                source = self._published.pop(change.local_track_republished.previous_sid, None)
                if source is not None:
                    self._published[change.local_track_republished.info.sid] = source
            elif change.HasField("local_track_unpublished"):
                self._published.pop(change.local_track_unpublished.publication_sid, None)

    def told(self, source: int, body: bytes) -> None:
        """What the server says that receivers ask for.  WireError for what is none."""
        news = feedback(body)
        if source in self._told:
            # Merged: a wish stays, and of the rest the latest counts.
            news.keyframe_requested |= self._told[source].keyframe_requested
            self._told[source].MergeFrom(news)

    def answer(self, kind: str, asked: Any) -> ffi.FfiResponse | None:
        """The answer to a request about such a source; None for any other request."""
        if kind == "capture_encoded_video_frame":
            accepted = asked.source_handle in self._published.values()
            taken = video.CaptureEncodedVideoFrameResponse(accepted=accepted)
            return ffi.FfiResponse(capture_encoded_video_frame=taken)
        if kind == "take_encoded_video_source_feedback":
            told = self._told.get(asked.source_handle, video.TakeEncodedVideoSourceFeedbackResponse())
            response = ffi.FfiResponse(take_encoded_video_source_feedback=told)
            told.Clear()
            return response
        return None
