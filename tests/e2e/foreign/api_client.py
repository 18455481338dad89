"""livekit-api, the Python server SDK, against a server: ``dispatch ROOM AGENT METADATA`` or ``tour ROOM AGENT``.

Address, key and secret come from the environment.  Prints one JSON object.
"""

import asyncio
import json
import sys

from livekit import api


async def dispatch(lk: api.LiveKitAPI, room: str, agent: str, metadata: str) -> dict[str, object]:
    await lk.room.create_room(api.CreateRoomRequest(name=room))
    made = await lk.agent_dispatch.create_dispatch(
        api.CreateAgentDispatchRequest(agent_name=agent, room=room, metadata=metadata)
    )
    return {"id": made.id, "agent_name": made.agent_name, "room": made.room, "metadata": made.metadata}


async def tour(lk: api.LiveKitAPI, room: str, agent: str) -> dict[str, object]:
    """Every call of both services once, and what came back."""
    created = await lk.room.create_room(api.CreateRoomRequest(name=room, metadata="m", empty_timeout=30))
    again = await lk.room.create_room(api.CreateRoomRequest(name=room))
    listed = await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))
    updated = await lk.room.update_room_metadata(api.UpdateRoomMetadataRequest(room=room, metadata="new"))
    made = await lk.agent_dispatch.create_dispatch(api.CreateAgentDispatchRequest(agent_name=agent, room=room))
    dispatches = await lk.agent_dispatch.list_dispatch(room)
    one = await lk.agent_dispatch.get_dispatch(made.id, room)
    deleted = await lk.agent_dispatch.delete_dispatch(made.id, room)
    people = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
    await lk.room.send_data(api.SendDataRequest(room=room, data=b"x", topic="t"))
    try:
        await lk.room.get_participant(api.RoomParticipantIdentity(room=room, identity="nobody"))
        missing = ""
    except api.TwirpError as error:
        missing = f"{error.status} {error.code}"
    await lk.room.delete_room(api.DeleteRoomRequest(room=room))
    gone = await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))
    return {
        "same_room": created.sid == again.sid and created.sid.startswith("RM_"),
        "metadata": created.metadata,
        "listed": [entry.name for entry in listed.rooms],
        "updated": updated.metadata,
        "agents": sorted(entry.agent_name for entry in dispatches),
        "found": one is not None and one.id == made.id,
        "deleted": deleted.id == made.id,
        "people": len(people.participants),
        "missing": missing,
        "gone": len(gone.rooms),
    }


async def main() -> None:
    async with api.LiveKitAPI() as lk:
        calls = {"dispatch": dispatch, "tour": tour}
        print(json.dumps(await calls[sys.argv[1]](lk, *sys.argv[2:])))


if __name__ == "__main__":
    asyncio.run(main())
