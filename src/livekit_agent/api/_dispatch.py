"""AgentDispatchService: which agents a room has been given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from livekit.protocol import agent_dispatch as dispatch_pb

from .._types import JobType
from ..protocol._codec import from_nanoseconds, state_from_proto
from ._types import Dispatch, DispatchedJob

if TYPE_CHECKING:
    from livekit.protocol import agent as agent_pb

    from ._client import LiveKitAPI

__all__ = ["DispatchApi"]

_SERVICE = "AgentDispatchService"


class DispatchApi:
    """``api.dispatch``.  All calls need a key that may administer the room."""

    def __init__(self, api: LiveKitAPI) -> None:
        self._api = api

    async def create(
        self,
        room: str,
        agent_name: str = "",
        *,
        metadata: str = "",
        deployment: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> Dispatch:
        """Dispatch an agent to a room, which the server makes if need be.

        Success means that the order stands, not that a worker took it: see the dispatch's jobs a little later.
        """
        request = dispatch_pb.CreateAgentDispatchRequest(
            room=room, agent_name=agent_name, metadata=metadata, deployment=deployment, attributes=attributes or {}
        )
        answer = await self._api.call(_SERVICE, "CreateDispatch", request, dispatch_pb.AgentDispatch, _grant(room))
        return _dispatch_of(answer)

    async def list(self, room: str, dispatch_id: str = "") -> list[Dispatch]:
        """A live room's dispatches, or the one with that id.  A room that is not live: ApiError ``unavailable``."""
        request = dispatch_pb.ListAgentDispatchRequest(room=room, dispatch_id=dispatch_id)
        answer = await self._api.call(
            _SERVICE, "ListDispatch", request, dispatch_pb.ListAgentDispatchResponse, _grant(room)
        )
        return [_dispatch_of(dispatch) for dispatch in answer.agent_dispatches]

    async def delete(self, room: str, dispatch_id: str) -> Dispatch:
        """Take a dispatch back and end its jobs.  An unknown one: ApiError ``not_found``."""
        request = dispatch_pb.DeleteAgentDispatchRequest(room=room, dispatch_id=dispatch_id)
        answer = await self._api.call(_SERVICE, "DeleteDispatch", request, dispatch_pb.AgentDispatch, _grant(room))
        return _dispatch_of(answer)


def _grant(room: str) -> dict[str, object]:
    return {"roomAdmin": True, "room": room}


def _dispatch_of(message: dispatch_pb.AgentDispatch) -> Dispatch:
    return Dispatch(
        id=message.id,
        room=message.room,
        agent_name=message.agent_name,
        metadata=message.metadata,
        deployment=message.deployment,
        attributes=dict(message.attributes),
        created_at=from_nanoseconds(message.state.created_at),
        jobs=tuple(_jobs_of(message.state.jobs)),
    )


def _jobs_of(messages: Iterable[agent_pb.Job]) -> Iterable[DispatchedJob]:
    for message in messages:
        number = int(message.type)
        yield DispatchedJob(
            id=message.id,
            type=JobType(number) if number in list(JobType) else number,
            participant=message.participant.identity,
            state=state_from_proto(message.state),
        )
