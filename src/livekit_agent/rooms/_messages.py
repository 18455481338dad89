"""Small things said in a room: chat messages, transcriptions, telephone tones.

What may not be said is refused here and at once; a server would drop it without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .._errors import RoomPermissionError
from ._enums import ParticipantKind
from ._proto import ffi
from ._proto import room as room_pb
from ._sending import Sending, identities

__all__ = ["ChatMessage", "MessageSending", "TranscriptionSegment"]

# RFC 4733: the codes of the keys.
_DTMF_CODES = {key: code for code, key in enumerate("0123456789*#ABCD")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """A chat message, as last edited."""

    id: str
    text: str = field(repr=False)
    sent_at: float
    """Seconds since 1970, by the sender's clock."""
    edited_at: float | None = None
    deleted: bool = False
    generated: bool = False
    """Written by a machine."""

    @classmethod
    def of(cls, message: room_pb.ChatMessage) -> ChatMessage:
        """From the library's message."""
        return cls(
            id=message.id,
            text=message.message,
            sent_at=message.timestamp / 1000,
            edited_at=message.edit_timestamp / 1000 if message.HasField("edit_timestamp") else None,
            deleted=message.deleted,
            generated=message.generated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionSegment:
    """A piece of what was said.  The same id again replaces it, until it is ``final``."""

    id: str
    text: str = field(repr=False)
    start: float = 0.0
    """Seconds."""
    end: float = 0.0
    final: bool = True
    language: str = ""

    @classmethod
    def of(cls, segment: room_pb.TranscriptionSegment) -> TranscriptionSegment:
        """From the library's message."""
        return cls(
            id=segment.id,
            text=segment.text,
            start=segment.start_time / 1000,
            end=segment.end_time / 1000,
            final=segment.final,
            language=segment.language,
        )


class MessageSending(Sending):
    """The local participant's part of it."""

    async def send_chat(self, text: str, *, destination_identities: Sequence[str] = ()) -> ChatMessage:
        """Send a chat message to everybody, or to those named; they get ``ChatReceived``."""
        await self._check_may_send("send chat messages")
        request = room_pb.SendChatMessageRequest(
            local_participant_handle=self._link.local_handle,
            message=text,
            destination_identities=identities(destination_identities),
        )
        call = self._link.send(ffi.FfiRequest(send_chat_message=request))
        event = await self._link.finish(call, "chat message not sent")
        return ChatMessage.of(event.chat_message.chat_message)

    async def edit_chat(
        self, message: ChatMessage, text: str, *, destination_identities: Sequence[str] = ()
    ) -> ChatMessage:
        """Replace the text of a chat message of ours; the others get ``ChatReceived`` with the same id."""
        await self._check_may_send("edit chat messages")
        return await self._replace_chat(message, text, message.deleted, destination_identities)

    async def delete_chat(self, message: ChatMessage, *, destination_identities: Sequence[str] = ()) -> ChatMessage:
        """Take a chat message of ours back; the others get ``ChatReceived`` with the same id, ``deleted``, no text."""
        await self._check_may_send("delete chat messages")
        return await self._replace_chat(message, "", True, destination_identities)

    async def _replace_chat(
        self, message: ChatMessage, text: str, deleted: bool, destination_identities: Sequence[str]
    ) -> ChatMessage:
        original = room_pb.ChatMessage(
            id=message.id,
            timestamp=round(message.sent_at * 1000),
            message=message.text,
            deleted=deleted,
            generated=message.generated,
        )
        request = room_pb.EditChatMessageRequest(
            local_participant_handle=self._link.local_handle,
            edit_text=text,
            original_message=original,
            destination_identities=identities(destination_identities),
        )
        call = self._link.send(ffi.FfiRequest(edit_chat_message=request))
        event = await self._link.finish(call, "chat message not edited")
        return replace(ChatMessage.of(event.chat_message.chat_message), generated=message.generated)

    async def publish_transcription(
        self, segments: Sequence[TranscriptionSegment], *, track_sid: str, participant_identity: str = ""
    ) -> None:
        """Say what was said on a track; by default on one of our own.  The others get ``TranscriptionReceived``.

        Only agents may: from anybody else a server drops it.
        """
        await self._check_may_send("publish transcriptions")
        if self._state.kind != ParticipantKind.AGENT:
            raise RoomPermissionError(
                "only an agent may publish transcriptions", hint="join with a token of kind agent"
            )
        request = room_pb.PublishTranscriptionRequest(
            local_participant_handle=self._link.local_handle,
            participant_identity=participant_identity or self._state.identity,
            track_id=track_sid,
            segments=[
                room_pb.TranscriptionSegment(
                    id=segment.id,
                    text=segment.text,
                    start_time=round(segment.start * 1000),
                    end_time=round(segment.end * 1000),
                    final=segment.final,
                    language=segment.language,
                )
                for segment in segments
            ],
        )
        call = self._link.send(ffi.FfiRequest(publish_transcription=request))
        await self._link.finish(call, "transcription not published")

    async def publish_dtmf(self, digit: str, *, destination_identities: Sequence[str] = ()) -> None:
        """Press a telephone's key: one of ``0123456789*#ABCD``.  The others get ``DtmfReceived``."""
        code = _DTMF_CODES.get(digit)
        if code is None:
            raise ValueError(f"a telephone has no key {digit!r}")
        await self._check_may_send("send telephone tones")
        request = room_pb.PublishSipDtmfRequest(
            local_participant_handle=self._link.local_handle,
            code=code,
            digit=digit,
            destination_identities=identities(destination_identities),
        )
        call = self._link.send(ffi.FfiRequest(publish_sip_dtmf=request))
        await self._link.finish(call, "telephone tone not sent")
