"""Somebody else's client, livekit-api, on the embedded server: every call that the server implements.

livekit-api is bound to asyncio, so these run there alone.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from dispatch_world import StreamWorker

from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import DataReceived

api = pytest.importorskip("livekit.api")

pytestmark = pytest.mark.parametrize("backend", ["asyncio"], indirect=True)


@asynccontextmanager
async def both() -> AsyncIterator[tuple[DispatchServer, api.LiveKitAPI]]:
    async with (
        DispatchServer() as server,
        api.LiveKitAPI(server.http_url, server.api_key, server.api_secret) as client,
    ):
        yield server, client


async def test_rooms_and_people(backend: str) -> None:
    async with both() as (server, client):
        room = await client.room.create_room(
            api.CreateRoomRequest(name="r", metadata="m", agents=[api.RoomAgentDispatch(agent_name="x")])
        )
        assert (room.name, room.metadata, room.empty_timeout) == ("r", "m", 300)
        assert [r.name for r in (await client.room.list_rooms(api.ListRoomsRequest(names=["r"]))).rooms] == ["r"]
        renamed = await client.room.update_room_metadata(api.UpdateRoomMetadataRequest(room="r", metadata="n"))
        assert renamed.metadata == "n"

        async with server.rooms.join("r", "alice") as alice:
            (listed,) = (await client.room.list_participants(api.ListParticipantsRequest(room="r"))).participants
            assert (listed.identity, listed.state) == ("alice", api.ParticipantInfo.State.ACTIVE)
            one = await client.room.get_participant(api.RoomParticipantIdentity(room="r", identity="alice"))
            assert one == listed
            changed = await client.room.update_participant(
                api.UpdateParticipantRequest(room="r", identity="alice", name="A", attributes={"k": "v"})
            )
            assert (changed.name, dict(changed.attributes)) == ("A", {"k": "v"})
            heard = alice.subscribe(DataReceived)
            await client.room.send_data(
                api.SendDataRequest(room="r", data=b"hi", topic="t", destination_identities=["alice"])
            )
            async for event in heard:
                assert (event.data, event.topic) == (b"hi", "t")
                break
            await client.room.remove_participant(api.RoomParticipantIdentity(room="r", identity="alice"))
            assert (await alice.wait_closed()).reason == 4
        await client.room.delete_room(api.DeleteRoomRequest(room="r"))
        assert (await client.room.list_rooms(api.ListRoomsRequest())).rooms == []


async def test_dispatches_and_jobs(backend: str) -> None:
    async with both() as (server, client), await server.memory_connector()(None) as stream:
        worker = await StreamWorker.register(stream, server.api_key, server.api_secret, time.time(), agent_name="a")
        request = api.CreateAgentDispatchRequest(agent_name="a", room="r", metadata="m")
        dispatch = await client.agent_dispatch.create_dispatch(request)
        assert (dispatch.agent_name, dispatch.room, dispatch.metadata) == ("a", "r", "m")
        job = (await worker.take_job()).job
        listed = await client.agent_dispatch.get_dispatch(dispatch.id, "r")
        assert [shown.id for shown in listed.state.jobs] == [job.id]
        assert len(await client.agent_dispatch.list_dispatch("r")) == 2
        deleted = await client.agent_dispatch.delete_dispatch(dispatch.id, "r")
        assert deleted.id == dispatch.id
        assert (await worker.hear("termination")).job_id == job.id
        assert await client.agent_dispatch.get_dispatch(dispatch.id, "r") is None


async def test_errors_are_what_it_expects(backend: str) -> None:
    async with both() as (server, client):
        with pytest.raises(api.TwirpError) as caught:
            await client.room.delete_room(api.DeleteRoomRequest(room="nowhere"))
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        async with api.LiveKitAPI(server.http_url, server.api_key, "another secret, another secret 32") as stranger:
            with pytest.raises(Exception, match=r"401|invalid token"):
                await stranger.room.list_rooms(api.ListRoomsRequest())
