"""What the library would answer at once, known at a distance.

The seam answers requests synchronously, and a room's server is far away.  So the participant's side knows by itself:

* the handle that a request makes: it is chosen here (``_remote_transport``), and the server is told;
* which methods others may call: a call always comes, and is refused here if nobody serves it;
* which calls wait for an answer, and which data tracks of ours are open: both are seen in what passes by;
* how many frames of a data track may wait: they wait here, for the socket;
* what becomes of compressed pictures (``_remote_encoded``), and all about keys (``_remote_encryption``);
* the rest repeats the request, or says that there was no error.

A request whose answer nobody but the server can know is not :func:`answerable`, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .._bounds import DATA_TRACK_PUSH_FRAMES_MAX
from ._enums import RpcCode, TrackKind
from ._memory_rpc import NO_CALLER_TEXT, UNSUPPORTED_TEXT
from ._proto import data_track, ffi, rpc
from ._remote_encoded import EncodedSources
from ._remote_encryption import KeyRing
from ._remote_wire import new_handle_of
from ._wire import describe_new_track

__all__ = ["KEPT", "Mirror", "answerable"]

KEPT = (
    "register_rpc_method",
    "unregister_rpc_method",
    "local_data_track_is_published",
    "take_encoded_video_source_feedback",
)
"""Requests that are answered here and not sent."""

_ANSWERED_AS = {"edit_chat_message": "send_chat_message"}
"""Requests whose answer has another name."""

_REPEATED = {"muted": "mute", "enabled": "enabled"}
"""Fields of answers that repeat the request: field -> the request's."""

_KNOWN = ("async_id", "error", "eos_event", "is_published", "accepted", *_REPEATED)
"""Fields of answers that are known, or not there when all is well."""

_TRACKS = {"create_audio_track": TrackKind.AUDIO, "create_video_track": TrackKind.VIDEO}


@cache
def answerable(kind: str) -> bool:
    """Whether the library's answer to a request of that kind can be known without asking."""
    if kind in ("take_encoded_video_source_feedback", "e2ee"):
        return True
    answer = ffi.FfiResponse.DESCRIPTOR.fields_by_name.get(_ANSWERED_AS.get(kind, kind))
    if answer is None:
        return False
    message: Any = answer.message_type
    # Memory that an answer points to is made by the request: nobody here has it.
    return all(
        (field.name in _KNOWN or field.name in new_handle_of(kind)[:1]) and not _points(field)
        for field in message.fields
    )


def _points(field: Any) -> bool:
    inside: Any = field.message_type
    return field.name.endswith("_ptr") or (inside is not None and any(map(_points, inside.fields)))


class Mirror:
    """One participant's."""

    def __init__(self) -> None:
        self._identity = ""
        self._methods: dict[str, None] = {}
        self._calls: dict[int, bool] = {}
        self._tracks: dict[int, int] = {}
        """Our open data tracks: handle -> frames that wait for the socket."""
        self.encoded = EncodedSources()
        """Our sources of compressed pictures."""
        self.keys = KeyRing()
        """What we encrypt with."""

    def hear(self, event: ffi.FfiEvent) -> ffi.FfiRequest | None:
        """An event from the server; a request, to be sent instead of telling anybody of the event."""
        kind = event.WhichOneof("message")
        self.encoded.hear(event)
        self.keys.hear(event)
        if kind == "connect":
            self._identity = event.connect.result.local_participant.info.identity
        elif kind == "publish_data_track":
            self._tracks[event.publish_data_track.track.handle.id] = 0
        elif kind == "room_event" and event.room_event.HasField("participant_permission_changed"):
            changed = event.room_event.participant_permission_changed
            if changed.participant_identity == self._identity and not changed.permission.can_publish_data:
                self._tracks.clear()
        elif kind == "rpc_method_invocation":
            call = event.rpc_method_invocation
            self._calls[call.invocation_id] = True
            if call.method not in self._methods:
                return _unsupported(call)
        return None

    def may_push(self, asked: Any) -> bool:
        """Whether a frame of a data track can be sent now."""
        return 0 <= self._tracks.get(asked.track_handle, -1) < DATA_TRACK_PUSH_FRAMES_MAX

    def sent(self, kind: str, asked: Any) -> Callable[[], None] | None:
        """A request is on its way; what to call when the socket has it, if anything."""
        if kind != "local_data_track_try_push":
            return None
        handle_id: int = asked.track_handle
        self._tracks[handle_id] += 1

        def gone() -> None:
            if handle_id in self._tracks:
                self._tracks[handle_id] -= 1

        return gone

    def answer(self, kind: str, asked: Any, number: int) -> ffi.FfiResponse:
        """The answer to a request; ``number`` is the handle that it gives."""
        self.encoded.asked(kind, asked, number)
        special = self.keys.answer(asked) if kind == "e2ee" else self.encoded.answer(kind, asked)
        if special is not None:
            return special
        response = ffi.FfiResponse()
        answer = getattr(response, _ANSWERED_AS.get(kind, kind))
        answer.SetInParent()
        fields = answer.DESCRIPTOR.fields_by_name
        if "async_id" in fields:
            answer.async_id = asked.request_async_id
        for name, source in _REPEATED.items():
            if name in fields:
                setattr(answer, name, getattr(asked, source))
        if number:
            _describe(kind, asked, answer, number)
        elif kind == "register_rpc_method":
            self._methods[asked.method] = None
        elif kind == "unregister_rpc_method":
            self._methods.pop(asked.method, None)
        elif kind == "rpc_method_invocation_response":
            if not self._calls.pop(asked.invocation_id, False):
                answer.error = NO_CALLER_TEXT
        elif kind == "local_data_track_is_published":
            answer.is_published = asked.track_handle in self._tracks
        elif kind == "local_data_track_unpublish":
            self._tracks.pop(asked.track_handle, None)
        return response

    def refuse_push(self, asked: Any) -> ffi.FfiResponse:
        """The answer to a frame of a data track that is not sent."""
        response = ffi.FfiResponse()
        error = response.local_data_track_try_push.error
        if asked.track_handle in self._tracks:
            error.code = data_track.LOCAL_DATA_TRACK_TRY_PUSH_ERROR_CODE_QUEUE_FULL
            error.message = "Failed to publish frame: queue full"
        else:
            error.code = data_track.LOCAL_DATA_TRACK_TRY_PUSH_ERROR_CODE_TRACK_UNPUBLISHED
            error.message = "Failed to publish frame: track unpublished"
        return response


def _describe(kind: str, asked: Any, answer: Any, number: int) -> None:
    way = new_handle_of(kind)
    for name in way[:-1]:
        answer = getattr(answer, name)
    getattr(answer, way[-1]).id = number
    if kind in _TRACKS:
        describe_new_track(answer.info, asked.name, _TRACKS[kind])
    elif "type" in asked.DESCRIPTOR.fields_by_name:
        answer.info.type = asked.type


def _unsupported(call: rpc.RpcMethodInvocationEvent) -> ffi.FfiRequest:
    error = rpc.RpcError(code=RpcCode.UNSUPPORTED_METHOD, message=UNSUPPORTED_TEXT)
    answer = rpc.RpcMethodInvocationResponseRequest(
        local_participant_handle=call.local_participant_handle, invocation_id=call.invocation_id, error=error
    )
    return ffi.FfiRequest(rpc_method_invocation_response=answer)
