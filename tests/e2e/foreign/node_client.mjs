// livekit-server-sdk, the JavaScript server SDK, against a server: every call of both services once.
// Arguments: room, agent name.  Address, key and secret come from the environment.  Prints one JSON object.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.NODE_MODULES_PARENT + "/");
const { AgentDispatchClient, RoomServiceClient } = await import(
  pathToFileURL(require.resolve("livekit-server-sdk")).href
);
const [room, agent] = process.argv.slice(2);
const { LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET } = process.env;
const rooms = new RoomServiceClient(LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET);
const dispatches = new AgentDispatchClient(LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET);

const created = await rooms.createRoom({ name: room, metadata: "m", emptyTimeout: 30 });
const again = await rooms.createRoom({ name: room });
const listed = await rooms.listRooms([room]);
const updated = await rooms.updateRoomMetadata(room, "new");
const made = await dispatches.createDispatch(room, agent, { metadata: "from node" });
const list = await dispatches.listDispatch(room);
const one = await dispatches.getDispatch(made.id, room);
await dispatches.deleteDispatch(made.id, room);
const people = await rooms.listParticipants(room);
await rooms.sendData(room, new TextEncoder().encode("x"), 0, { topic: "t" });
let missing = "";
try {
  await rooms.getParticipant(room, "nobody");
} catch (error) {
  missing = `${error.status} ${error.code}`;
}
await rooms.deleteRoom(room);
const gone = await rooms.listRooms([room]);
console.log(
  JSON.stringify({
    same_room: created.sid === again.sid && created.sid.startsWith("RM_"),
    metadata: created.metadata,
    listed: listed.map((entry) => entry.name),
    updated: updated.metadata,
    agents: list.map((entry) => entry.agentName).sort(),
    found: one !== undefined && one.id === made.id,
    deleted: true,
    people: people.length,
    missing,
    gone: gone.length,
  }),
);
