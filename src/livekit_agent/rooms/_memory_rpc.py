"""Rooms in memory: remote calls, chat, transcriptions and telephone tones.

As observed on a real server: an unknown method is refused at once (1400), an unknown identity after 7 s or whatever the
caller says (1501), the called side is given that much less than the caller waits but at least 1 s, a second answer
finds no caller.  Who leaves fails its callers (1503): at once, or, as the real library notices it, after the
``departure`` of the rooms' delays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._enums import ParticipantKind, RpcCode
from ._proto import ffi, handle
from ._proto import room as room_pb
from ._proto import rpc as rpc_pb
from ._wire import callback

if TYPE_CHECKING:
    from ._memory import MemoryRooms
    from ._memory_transport import MemoryTransport

__all__ = ["NO_CALLER_TEXT", "UNSUPPORTED_TEXT", "MemoryPeer", "MemoryRpc"]

NO_CALLER_TEXT = "No caller found"
UNSUPPORTED_TEXT = "Method not supported at destination"

_ROUND_TRIP_MS = 7_000
_HANDLER_MS_MIN = 1_000


class MemoryPeer:
    """What the parts of a connection in memory share; ``MemoryTransport`` fills it in."""

    sid: str
    room_name: str
    remote: bool
    """Whoever is behind this connection is in another process, and knows its methods and its queues by itself."""
    _rooms: MemoryRooms
    _identity: str
    _ended: bool
    _objects: dict[int, object]
    _ready: bool
    _local_handle: int

    def publishes(self, identity: str) -> None:
        """Somebody publishes something, so it is no longer held back that it is there."""
        raise NotImplementedError

    def _give(self, value: object) -> handle.FfiOwnedHandle:
        raise NotImplementedError

    def _object(self, handle_id: int, kind: type[Any]) -> Any:
        raise NotImplementedError

    def _answer(self, event: ffi.FfiEvent) -> None:
        raise NotImplementedError

    def _tell(self, **message: Any) -> None:
        raise NotImplementedError

    def _send_event(self, event: ffi.FfiEvent) -> None:
        raise NotImplementedError

    def _may_publish_data(self) -> bool:
        found = self._rooms.ledger.member(self.sid)
        return not self._ended and found is not None and found[1].permissions.can_publish_data

    def _may_subscribe(self) -> bool:
        # Gone from the ledger already, while the news is still on its way to us: then no.
        found = self._rooms.ledger.member(self.sid)
        return found is not None and found[1].permissions.can_subscribe

    def _hearers(self, destinations: Any) -> list[MemoryTransport]:
        """Whom what we send reaches: the others, or those named; nobody if we may not send."""
        if not self._may_publish_data():
            return []
        people = self._rooms.ledger.participants(self.room_name)
        wanted = [p for p in people if p.sid != self.sid and (not destinations or p.identity in destinations)]
        connections = [self._rooms.connection(person.sid) for person in wanted]
        return [connection for connection in connections if connection is not None]

    def _key_holders(self, destinations: Any) -> list[MemoryTransport]:
        """As :meth:`_hearers`, of what is encrypted where we have joined with encryption."""
        this: Any = self
        return [hearer for hearer in self._hearers(destinations) if hearer.can_read(this)]


@dataclass(slots=True)
class _Invocation:
    caller: MemoryTransport
    async_id: int


class MemoryRpc(MemoryPeer):
    """The requests about calls and messages."""

    def __init__(self) -> None:
        self._rpc_methods: dict[str, None] = {}
        self._rpc_incoming: dict[int, _Invocation] = {}
        self._rpc_count = 0

    # --- calls ----------------------------------------------------------------------------------------------------

    def _do_register_rpc_method(self, request: rpc_pb.RegisterRpcMethodRequest) -> ffi.FfiResponse:
        self._object(request.local_participant_handle, str)
        self._rpc_methods[request.method] = None
        return ffi.FfiResponse(register_rpc_method=rpc_pb.RegisterRpcMethodResponse())

    def _do_unregister_rpc_method(self, request: rpc_pb.UnregisterRpcMethodRequest) -> ffi.FfiResponse:
        self._object(request.local_participant_handle, str)
        self._rpc_methods.pop(request.method, None)
        return ffi.FfiResponse(unregister_rpc_method=rpc_pb.UnregisterRpcMethodResponse())

    def _do_perform_rpc(self, request: rpc_pb.PerformRpcRequest) -> ffi.FfiResponse:
        self._object(request.local_participant_handle, str)
        async_id = request.request_async_id
        # An empty name would mean everybody.
        found = self._key_holders([request.destination_identity]) if not self._ended else []
        this: Any = self
        # Who cannot decrypt the answer is not answered.
        if not found or not this.can_read(found[0]):
            self._rooms.clock.later(
                _round_trip_ms(request) / 1000,
                lambda: self._answer(_failed(async_id, RpcCode.CONNECTION_TIMEOUT, "Connection timeout")),
            )
        else:
            found[0].called(self, request)
        return ffi.FfiResponse(perform_rpc=rpc_pb.PerformRpcResponse(async_id=async_id))

    def called(self, caller: Any, request: rpc_pb.PerformRpcRequest) -> None:
        """Somebody calls this participant."""
        async_id = request.request_async_id
        if not self.remote and request.method not in self._rpc_methods:
            caller._answer(_failed(async_id, RpcCode.UNSUPPORTED_METHOD, UNSUPPORTED_TEXT))
            return
        self._rpc_count += 1
        self._rpc_incoming[self._rpc_count] = _Invocation(caller, async_id)
        self._send_event(
            ffi.FfiEvent(
                rpc_method_invocation=rpc_pb.RpcMethodInvocationEvent(
                    local_participant_handle=self._local_handle,
                    invocation_id=self._rpc_count,
                    method=request.method,
                    request_id=f"call-{caller.sid}-{async_id}",
                    caller_identity=caller._identity,
                    payload=request.payload,
                    response_timeout_ms=max(_HANDLER_MS_MIN, request.response_timeout_ms - _round_trip_ms(request)),
                )
            )
        )

    def _do_rpc_method_invocation_response(self, request: rpc_pb.RpcMethodInvocationResponseRequest) -> ffi.FfiResponse:
        response = rpc_pb.RpcMethodInvocationResponseResponse()
        invocation = self._rpc_incoming.pop(request.invocation_id, None)
        if invocation is None:
            response.error = NO_CALLER_TEXT
        else:
            event = ffi.FfiEvent(perform_rpc=rpc_pb.PerformRpcCallback(async_id=invocation.async_id))
            if request.HasField("error"):
                event.perform_rpc.error.CopyFrom(request.error)
            else:
                event.perform_rpc.payload = request.payload
            invocation.caller._answer(event)  # pyright: ignore[reportPrivateUsage] - a connection like this one
        return ffi.FfiResponse(rpc_method_invocation_response=response)

    def _fail_callers(self) -> None:
        """We have left."""
        waiting, self._rpc_incoming = self._rpc_incoming, {}
        for invocation in waiting.values():
            self._miss(invocation)

    def _miss(self, invocation: _Invocation) -> None:
        gone = _failed(invocation.async_id, RpcCode.RECIPIENT_DISCONNECTED, "Recipient disconnected")
        caller = invocation.caller
        if self._rooms.delays.departure > 0:
            self._rooms.clock.later(
                self._rooms.delays.departure,
                lambda: caller._answer(gone),  # pyright: ignore[reportPrivateUsage] - a connection like this one
            )
        else:
            caller._answer(gone)  # pyright: ignore[reportPrivateUsage] - a connection like this one

    # --- messages -------------------------------------------------------------------------------------------------

    def _do_send_chat_message(self, request: room_pb.SendChatMessageRequest) -> ffi.FfiResponse:
        message = room_pb.ChatMessage(
            id=self._rooms.new_id("chat-"), timestamp=self._rooms.wall_ms(), message=request.message
        )
        return self._chat(message, request)

    def _do_edit_chat_message(self, request: room_pb.EditChatMessageRequest) -> ffi.FfiResponse:
        message = room_pb.ChatMessage()
        message.CopyFrom(request.original_message)
        message.message = request.edit_text
        message.edit_timestamp = self._rooms.wall_ms()
        return self._chat(message, request)

    def _chat(self, message: room_pb.ChatMessage, request: Any) -> ffi.FfiResponse:
        async_id: int = request.request_async_id
        if not self._ended:
            for hearer in self._key_holders(request.destination_identities):
                received = room_pb.ChatMessageReceived(message=message, participant_identity=self._identity)
                hearer._tell(chat_message=received)  # pyright: ignore[reportPrivateUsage] - a connection like this one
            event = callback("chat_message", async_id)
            event.chat_message.chat_message.CopyFrom(message)
            self._answer(event)
        return ffi.FfiResponse(send_chat_message=room_pb.SendChatMessageResponse(async_id=async_id))

    def _do_publish_transcription(self, request: room_pb.PublishTranscriptionRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        if not self._ended:
            found = self._rooms.ledger.member(self.sid)
            # A real server drops what does not come from an agent, without a word.
            heard = self._hearers(()) if found is not None and found[1].kind == ParticipantKind.AGENT else []
            for hearer in heard:
                received = room_pb.TranscriptionReceived(
                    participant_identity=request.participant_identity,
                    track_sid=request.track_id,
                    segments=request.segments,
                )
                hearer._tell(transcription_received=received)  # pyright: ignore[reportPrivateUsage] - like this one
            self._answer(callback("publish_transcription", async_id))
        return ffi.FfiResponse(publish_transcription=room_pb.PublishTranscriptionResponse(async_id=async_id))

    def _do_publish_sip_dtmf(self, request: room_pb.PublishSipDtmfRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        if not self._ended:
            for hearer in self._hearers(request.destination_identities):
                packet = room_pb.DataPacketReceived(
                    kind=room_pb.KIND_RELIABLE,
                    participant_identity=self._identity,
                    sip_dtmf=room_pb.SipDTMF(code=request.code, digit=request.digit),
                )
                hearer._tell(data_packet_received=packet)  # pyright: ignore[reportPrivateUsage] - like this one
            self._answer(callback("publish_sip_dtmf", async_id))
        return ffi.FfiResponse(publish_sip_dtmf=room_pb.PublishSipDtmfResponse(async_id=async_id))


def _round_trip_ms(request: rpc_pb.PerformRpcRequest) -> int:
    return request.max_round_trip_latency_ms if request.HasField("max_round_trip_latency_ms") else _ROUND_TRIP_MS


def _failed(async_id: int, code: int, message: str) -> ffi.FfiEvent:
    error = rpc_pb.RpcError(code=code, message=message)
    return ffi.FfiEvent(perform_rpc=rpc_pb.PerformRpcCallback(async_id=async_id, error=error))
