"""RoomService: rooms and who is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message
from livekit.protocol import agent_dispatch as dispatch_pb
from livekit.protocol import models as models_pb
from livekit.protocol import room as room_pb

from .._types import ParticipantInfo, ParticipantPermissions, RoomInfo
from ..protocol._codec import participant_from_proto, room_from_proto
from ._types import RoomAgent

if TYPE_CHECKING:
    from ._client import LiveKitAPI

__all__ = ["RoomApi"]

M = TypeVar("M", bound=Message)


class RoomApi:
    """``api.rooms``."""

    def __init__(self, api: LiveKitAPI) -> None:
        self._api = api

    async def create(
        self,
        name: str,
        *,
        metadata: str = "",
        empty_timeout: int = 0,
        departure_timeout: int = 0,
        max_participants: int = 0,
        agents: Sequence[RoomAgent | str] = (),
    ) -> RoomInfo:
        """Make a room; one that is live is returned as it is, and everything else here is ignored then.

        ``agents``: values, or just names.  Giving any leaves the nameless agents out.  Zero: the server's default.
        """
        orders = [RoomAgent(agent_name=agent) if isinstance(agent, str) else agent for agent in agents]
        request = room_pb.CreateRoomRequest(
            name=name,
            metadata=metadata,
            empty_timeout=empty_timeout,
            departure_timeout=departure_timeout,
            max_participants=max_participants,
            agents=[
                dispatch_pb.RoomAgentDispatch(
                    agent_name=order.agent_name,
                    metadata=order.metadata,
                    deployment=order.deployment,
                    attributes=order.attributes,
                )
                for order in orders
            ],
        )
        return room_from_proto(await self._call("CreateRoom", request, models_pb.Room, {"roomCreate": True}))

    async def list(self, names: Sequence[str] = ()) -> list[RoomInfo]:
        """The live rooms, or those of them with the given names."""
        request = room_pb.ListRoomsRequest(names=names)
        answer = await self._call("ListRooms", request, room_pb.ListRoomsResponse, {"roomList": True})
        return [room_from_proto(room) for room in answer.rooms]

    async def delete(self, name: str) -> None:
        """End a room and send everybody away.  An unknown one: ApiError ``not_found``."""
        request = room_pb.DeleteRoomRequest(room=name)
        await self._call("DeleteRoom", request, room_pb.DeleteRoomResponse, {"roomCreate": True})

    async def participants(self, room: str) -> list[ParticipantInfo]:
        """Who is in a room; nobody in one that is not live."""
        request = room_pb.ListParticipantsRequest(room=room)
        answer = await self._call("ListParticipants", request, room_pb.ListParticipantsResponse, _admin(room))
        return [participant_from_proto(participant) for participant in answer.participants]

    async def get_participant(self, room: str, identity: str) -> ParticipantInfo:
        """One participant.  An unknown one: ApiError ``not_found``."""
        request = room_pb.RoomParticipantIdentity(room=room, identity=identity)
        answer = await self._call("GetParticipant", request, models_pb.ParticipantInfo, _admin(room))
        return participant_from_proto(answer)

    async def remove_participant(self, room: str, identity: str) -> None:
        """Make somebody leave.  An unknown one: ApiError ``not_found``."""
        request = room_pb.RoomParticipantIdentity(room=room, identity=identity)
        await self._call("RemoveParticipant", request, room_pb.RemoveParticipantResponse, _admin(room))

    async def update_participant(
        self,
        room: str,
        identity: str,
        *,
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        permissions: ParticipantPermissions | None = None,
    ) -> ParticipantInfo:
        """Change a participant.  Empty text changes nothing; an attribute set to empty text is deleted.

        The answer of an open-source server may still show the participant as it was.
        """
        request = room_pb.UpdateParticipantRequest(
            room=room, identity=identity, name=name, metadata=metadata, attributes=attributes or {}
        )
        if permissions is not None:
            request.permission.CopyFrom(permissions.to_proto())
        answer = await self._call("UpdateParticipant", request, models_pb.ParticipantInfo, _admin(room))
        return participant_from_proto(answer)

    async def mute_track(self, room: str, identity: str, track_sid: str, *, muted: bool = True) -> bool:
        """Mute somebody's track; False if they publish no such track.  Everybody in the room gets ``TrackMuted``.

        Nobody can be unmuted by default: ApiError ``failed_precondition``.  An unknown room or participant:
        ``unavailable``.
        """
        request = room_pb.MuteRoomTrackRequest(room=room, identity=identity, track_sid=track_sid, muted=muted)
        answer = await self._call("MutePublishedTrack", request, room_pb.MuteRoomTrackResponse, _admin(room))
        return answer.HasField("track")

    async def update_metadata(self, room: str, metadata: str) -> RoomInfo:
        """Change a room's metadata.  An unknown room: ApiError ``not_found``."""
        request = room_pb.UpdateRoomMetadataRequest(room=room, metadata=metadata)
        return room_from_proto(await self._call("UpdateRoomMetadata", request, models_pb.Room, _admin(room)))

    async def send_data(
        self,
        room: str,
        data: bytes | str,
        *,
        topic: str = "",
        reliable: bool = True,
        destination_identities: Sequence[str] = (),
    ) -> None:
        """Send data to everybody in a room, or to those named.  It comes from no participant."""
        request = room_pb.SendDataRequest(
            room=room,
            data=data.encode() if isinstance(data, str) else data,
            kind=models_pb.DataPacket.Kind.RELIABLE if reliable else models_pb.DataPacket.Kind.LOSSY,
            destination_identities=destination_identities,
            topic=topic,
        )
        await self._call("SendData", request, room_pb.SendDataResponse, _admin(room))

    async def _call(self, method: str, request: Message, answer: type[M], grant: Mapping[str, object]) -> M:
        return await self._api.call("RoomService", method, request, answer, grant)


def _admin(room: str) -> dict[str, object]:
    return {"roomAdmin": True, "room": room}
