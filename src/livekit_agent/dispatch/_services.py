"""AgentDispatchService and RoomService: what each method does, over the two things that know (rooms and dispatches).

Limits, wording and the order of checks are those of v1.13.5: some methods look at the request's size before the
grant. A room that is not live answers 503 at once, where the real server's bus takes three seconds to find that
nobody answers. Methods that need real media (subscriptions, moving, RPC) exist and say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from google.protobuf.message import Message
from livekit.protocol import agent_dispatch as dispatch_pb
from livekit.protocol import models as models_pb
from livekit.protocol import room as room_pb

from .._bounds import (
    ATTRIBUTES_BYTES_MAX,
    DEPLOYMENT_BYTES_MAX,
    METADATA_BYTES_MAX,
    PARTICIPANT_NAME_BYTES_MAX,
    ROOM_NAME_BYTES_MAX,
)
from .._errors import ResourceExhaustedError
from .._options import valid_deployment
from ..protocol import Claims
from ._access import may
from ._core import Order
from ._events import DispatchRecord
from ._messages import dispatch_message, orders_of
from ._twirp import Method, TwirpError

__all__ = ["DispatchDesk", "RoomKeeper", "services"]


class RoomKeeper(Protocol):
    """Who keeps the rooms.  Unknown rooms and participants raise KeyError."""

    def create(self, request: room_pb.CreateRoomRequest, agents: Iterable[Order]) -> models_pb.Room:
        """The room, made if it is not live; a live one is returned as it is.

        Raises ResourceExhaustedError for a longer list than a room may have dispatches.
        """
        ...

    def rooms(self) -> list[models_pb.Room]:
        """All live rooms."""
        ...

    def room(self, name: str) -> models_pb.Room:
        """One live room."""
        ...

    def delete(self, name: str) -> None:
        """End a room and send everybody away."""
        ...

    def participants(self, room: str) -> list[models_pb.ParticipantInfo]:
        """Who is there."""
        ...

    def participant(self, room: str, identity: str) -> models_pb.ParticipantInfo:
        """One of them."""
        ...

    def remove(self, room: str, identity: str) -> None:
        """Send somebody away."""
        ...

    def update_participant(self, request: room_pb.UpdateParticipantRequest) -> models_pb.ParticipantInfo:
        """Change what is given: empty text changes nothing, an empty attribute is deleted."""
        ...

    def set_metadata(self, room: str, metadata: str) -> models_pb.Room:
        """Change a room's metadata."""
        ...

    def send_data(self, request: room_pb.SendDataRequest) -> None:
        """Send a data packet that comes from no participant."""
        ...

    def mute(self, room: str, identity: str, track_sid: str) -> models_pb.TrackInfo | None:
        """Mute somebody's track; None if they publish no such track."""
        ...


class DispatchDesk(Protocol):
    """Who keeps the dispatches.  KeyError for a room that is not live."""

    def create(self, room: str, order: Order) -> DispatchRecord:
        """Add a dispatch to a live room."""
        ...

    def delete(self, room: str, dispatch_id: str) -> DispatchRecord | None:
        """Take one away; None for an unknown id."""
        ...

    def list(self, room: str) -> list[DispatchRecord]:
        """A room's dispatches."""
        ...


def services(rooms: RoomKeeper, dispatches: DispatchDesk) -> Mapping[str, Mapping[str, Method]]:
    """Both services, as the Twirp router wants them."""
    agents, room = _AgentDispatchService(rooms, dispatches), _RoomService(rooms)
    return {
        "livekit.AgentDispatchService": {
            "CreateDispatch": Method(dispatch_pb.CreateAgentDispatchRequest, agents.create),
            "DeleteDispatch": Method(dispatch_pb.DeleteAgentDispatchRequest, agents.delete),
            "ListDispatch": Method(dispatch_pb.ListAgentDispatchRequest, agents.list),
        },
        "livekit.RoomService": {
            "CreateRoom": Method(room_pb.CreateRoomRequest, room.create),
            "ListRooms": Method(room_pb.ListRoomsRequest, room.list),
            "DeleteRoom": Method(room_pb.DeleteRoomRequest, room.delete),
            "ListParticipants": Method(room_pb.ListParticipantsRequest, room.participants),
            "GetParticipant": Method(room_pb.RoomParticipantIdentity, room.participant),
            "RemoveParticipant": Method(room_pb.RoomParticipantIdentity, room.remove),
            "UpdateParticipant": Method(room_pb.UpdateParticipantRequest, room.update_participant),
            "UpdateRoomMetadata": Method(room_pb.UpdateRoomMetadataRequest, room.update_metadata),
            "SendData": Method(room_pb.SendDataRequest, room.send_data),
            "MutePublishedTrack": Method(room_pb.MuteRoomTrackRequest, room.mute),
            "UpdateSubscriptions": Method(room_pb.UpdateSubscriptionsRequest, room.not_here),
            "ForwardParticipant": Method(room_pb.ForwardParticipantRequest, room.not_here),
            "MoveParticipant": Method(room_pb.MoveParticipantRequest, room.not_here),
            "PerformRpc": Method(room_pb.PerformRpcRequest, room.not_here),
        },
    }


class _AgentDispatchService:
    def __init__(self, rooms: RoomKeeper, dispatches: DispatchDesk) -> None:
        self._rooms = rooms
        self._dispatches = dispatches

    def create(
        self, request: dispatch_pb.CreateAgentDispatchRequest, claims: Claims | None
    ) -> dispatch_pb.AgentDispatch:
        _admin(claims, request.room)
        _check_deployment(request.deployment)
        if _size(request.metadata) > METADATA_BYTES_MAX:
            raise TwirpError.service("invalid_argument", "metadata size exceeds limits")
        if _sizes(request.attributes) > ATTRIBUTES_BYTES_MAX:
            raise TwirpError.service("invalid_argument", "attribute size exceeds limits")
        # The room is made when it is missing, and such a room has the implicit, nameless dispatch as well.
        self._rooms.create(room_pb.CreateRoomRequest(name=request.room), ())
        order = Order(
            agent_name=request.agent_name,
            metadata=request.metadata,
            deployment=request.deployment,
            attributes=dict(request.attributes),
            restart_policy=int(request.restart_policy),
        )
        try:
            return dispatch_message(self._dispatches.create(request.room, order))
        except ResourceExhaustedError as exc:
            raise TwirpError("resource_exhausted", exc.message) from None

    def delete(
        self, request: dispatch_pb.DeleteAgentDispatchRequest, claims: Claims | None
    ) -> dispatch_pb.AgentDispatch:
        _admin(claims, request.room)
        try:
            dispatch = self._dispatches.delete(request.room, request.dispatch_id)
        except KeyError:
            raise _not_live() from None
        if dispatch is None:
            raise TwirpError.service("not_found", "dispatch ID not found")
        return dispatch_message(dispatch)

    def list(
        self, request: dispatch_pb.ListAgentDispatchRequest, claims: Claims | None
    ) -> dispatch_pb.ListAgentDispatchResponse:
        _admin(claims, request.room)
        try:
            dispatches = self._dispatches.list(request.room)
        except KeyError:
            raise _not_live() from None
        wanted = request.dispatch_id
        return dispatch_pb.ListAgentDispatchResponse(
            agent_dispatches=[dispatch_message(d) for d in dispatches if wanted in ("", d.id)]
        )


class _RoomService:
    def __init__(self, rooms: RoomKeeper) -> None:
        self._rooms = rooms

    def create(self, request: room_pb.CreateRoomRequest, claims: Claims | None) -> models_pb.Room:
        _allow(may(claims, "roomCreate"))
        if _size(request.name) > ROOM_NAME_BYTES_MAX:
            raise TwirpError.service(
                "invalid_argument", f"room name length exceeds limits: max length {ROOM_NAME_BYTES_MAX}"
            )
        _check_metadata(request.metadata)
        for agent in request.agents:
            _check_metadata(agent.metadata)
            _check_attributes(agent.attributes)
        if request.room_preset and request.name not in [room.name for room in self._rooms.rooms()]:
            # A server's configuration has them, and this one has none; a live room is not asked about it.
            raise TwirpError.service("invalid_argument", "unknown room configuration in create room request")
        try:
            return self._rooms.create(request, orders_of(request.agents))
        except ResourceExhaustedError as exc:
            raise TwirpError("resource_exhausted", exc.message) from None

    def list(self, request: room_pb.ListRoomsRequest, claims: Claims | None) -> room_pb.ListRoomsResponse:
        _allow(may(claims, "roomList"))
        wanted = list(request.names)
        return room_pb.ListRoomsResponse(
            rooms=[room for room in self._rooms.rooms() if not wanted or room.name in wanted]
        )

    def delete(self, request: room_pb.DeleteRoomRequest, claims: Claims | None) -> room_pb.DeleteRoomResponse:
        _allow(may(claims, "roomCreate"))
        try:
            self._rooms.delete(request.room)
        except KeyError:
            raise _no_room() from None
        return room_pb.DeleteRoomResponse()

    def participants(
        self, request: room_pb.ListParticipantsRequest, claims: Claims | None
    ) -> room_pb.ListParticipantsResponse:
        _admin(claims, request.room)
        try:
            participants = self._rooms.participants(request.room)
        except KeyError:
            participants = []
        return room_pb.ListParticipantsResponse(participants=participants)

    def participant(self, request: room_pb.RoomParticipantIdentity, claims: Claims | None) -> models_pb.ParticipantInfo:
        _admin(claims, request.room)
        try:
            return self._rooms.participant(request.room, request.identity)
        except KeyError:
            raise _no_participant() from None

    def remove(
        self, request: room_pb.RoomParticipantIdentity, claims: Claims | None
    ) -> room_pb.RemoveParticipantResponse:
        _admin(claims, request.room)
        try:
            self._rooms.remove(request.room, request.identity)
        except KeyError:
            raise _no_participant() from None
        return room_pb.RemoveParticipantResponse()

    def update_participant(
        self, request: room_pb.UpdateParticipantRequest, claims: Claims | None
    ) -> models_pb.ParticipantInfo:
        if _size(request.name) > PARTICIPANT_NAME_BYTES_MAX:
            raise _too_large("name length exceeds limits", PARTICIPANT_NAME_BYTES_MAX)
        _check_metadata(request.metadata)
        _check_attributes(request.attributes)
        _admin(claims, request.room)
        try:
            return self._rooms.update_participant(request)
        except KeyError:
            raise _no_participant() from None

    def update_metadata(self, request: room_pb.UpdateRoomMetadataRequest, claims: Claims | None) -> models_pb.Room:
        _check_metadata(request.metadata)
        _admin(claims, request.room)
        try:
            return self._rooms.set_metadata(request.room, request.metadata)
        except KeyError:
            raise _no_room() from None

    def send_data(self, request: room_pb.SendDataRequest, claims: Claims | None) -> room_pb.SendDataResponse:
        _admin(claims, request.room)
        if len(request.nonce) not in (0, 16):
            raise TwirpError(
                "invalid_argument", f"nonce should be 16-bytes or not present, got: {len(request.nonce)} bytes"
            )
        try:
            self._rooms.send_data(request)
        except KeyError:
            raise _not_live() from None
        return room_pb.SendDataResponse()

    def mute(self, request: room_pb.MuteRoomTrackRequest, claims: Claims | None) -> room_pb.MuteRoomTrackResponse:
        _admin(claims, request.room)
        try:
            self._rooms.participant(request.room, request.identity)
            if not request.muted:
                # The real server's default; only the publisher decides to be heard again.
                raise TwirpError.service("failed_precondition", "remote unmute not enabled")
            track = self._rooms.mute(request.room, request.identity, request.track_sid)
        except KeyError:
            # Room or participant: the real server finds nobody on its bus.
            raise _not_live() from None
        return room_pb.MuteRoomTrackResponse(track=track)

    def not_here(self, request: Any, claims: Claims | None) -> Message:
        """What needs media, or several nodes."""
        _admin(claims, request.room)
        raise TwirpError(
            "unimplemented", "this embedded dispatch server keeps its rooms in memory; use a real livekit-server"
        )


# --------------------------------------------------------------------------------------------------- small checks


def _allow(allowed: bool) -> None:
    if not allowed:
        # Never 403: the real server answers 401 here.
        raise TwirpError("unauthenticated", "permissions denied")


def _admin(claims: Claims | None, room: str) -> None:
    _allow(may(claims, "roomAdmin", room))


def _size(text: str) -> int:
    return len(text.encode())


def _sizes(attributes: Mapping[str, str]) -> int:
    return sum(_size(key) + _size(value) for key, value in attributes.items())


def _too_large(what: str, limit: int) -> TwirpError:
    return TwirpError("invalid_argument", f"{what} {limit}", {"argument": what})


def _check_metadata(metadata: str) -> None:
    if _size(metadata) > METADATA_BYTES_MAX:
        raise _too_large("metadata size exceeds limits", METADATA_BYTES_MAX)


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if _sizes(attributes) > ATTRIBUTES_BYTES_MAX:
        raise _too_large("attribute size exceeds limits", ATTRIBUTES_BYTES_MAX)


def _check_deployment(deployment: str) -> None:
    if valid_deployment(deployment):
        return
    data = deployment.encode()
    wrong = next(((place, byte) for place, byte in enumerate(data) if byte <= 0x20 or byte in b"\x7f_"), None)
    if len(data) > DEPLOYMENT_BYTES_MAX or wrong is None:
        reason = f"deployment exceeds {DEPLOYMENT_BYTES_MAX} bytes"
    elif wrong[1] == ord("_"):
        reason = "deployment contains reserved character '_'"
    else:
        reason = f"deployment contains whitespace or control byte at position {wrong[0]}"
    raise TwirpError.service("invalid_argument", reason)


def _not_live() -> TwirpError:
    return TwirpError.service("unavailable", "no response from servers")


def _no_room() -> TwirpError:
    return TwirpError.service("not_found", "requested room does not exist")


def _no_participant() -> TwirpError:
    return TwirpError.service("not_found", "participant does not exist")
