"""Media in simulated rooms: somebody comes to an agent's room and speaks, and the agent listens in its own way.

A speaker says numbered frames: every sample of frame n is n, so that whoever hears a frame knows which it is (0 is
silence).  Half way something may befall it: it is muted, its connection breaks, its track is gone.  The listener reads
some frames, then reads on, sleeps, unsubscribes, closes, abandons its iterator, or has its callback return; what it got
is noted for the checkers (``_checkers_rooms.py``).

Few and short: each frame is an event of its own at both ends.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anyio

from .. import events
from .._errors import RoomError
from .._types import ParticipantPermissions
from ..context import JobContext
from ..rooms import (
    AudioFrame,
    AudioSource,
    LocalTrackPublication,
    MediaStream,
    Network,
    RemoteParticipant,
    RemoteTrack,
    RemoteTrackPublication,
    Room,
)
from ..rooms._media_stream import MediaQueue
from ._scenario import MediaPlan

if TYPE_CHECKING:
    from ._world import World

__all__ = ["SPEAKER", "MediaStage"]

SPEAKER = "speaker-"
"""How the identities of speakers begin."""

_PATIENCE = 3.0
"""Seconds that either side waits for the other."""

_SAMPLES = 480


class _Ear:
    """What a listener got of one stream."""

    def __init__(self, stream: MediaStream[AudioFrame], label: str, capacity: int) -> None:
        self.stream: MediaStream[AudioFrame] | None = stream
        self.queue = stream._queue  # pyright: ignore[reportPrivateUsage] - outlives an abandoned iterator
        self.label = label
        self.capacity = capacity
        self.frames: list[str] = []
        self.read = self.peak = self.forgotten = 0
        self.abandoned = False

    @property
    def received(self) -> int:
        """How many frames have arrived."""
        return self.queue.received

    def hear(self, frame: AudioFrame) -> None:
        """One frame was read."""
        self.peak = max(self.peak, len(self.queue))
        self.read += 1
        (number,) = struct.unpack_from("<h", frame.data)
        if number:
            self.frames.append(str(number))

    def report(self) -> dict[str, Any]:
        """For the trace."""
        return {
            "stream": self.label, "frames": tuple(self.frames), "received": self.received, "read": self.read,
            "dropped": self.queue.dropped, "waiting": self.forgotten + len(self.queue),
            "peak": max(self.peak, len(self.queue)), "capacity": self.capacity, "abandoned": self.abandoned,
        }  # fmt: skip


class MediaStage:
    """All speakers of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.rooms.media.watch = self._on_stream

    def _on_stream(self, what: str, stream: str) -> None:
        self._world.note("world", "media", what, "", stream=stream)

    async def run(self) -> None:
        """Send the speakers, each at its time."""
        for number, plan in enumerate(self._world.scenario.media):
            await anyio.sleep_until(plan.at)
            self._world.tasks.start_soon(self._come, f"{SPEAKER}{number}", plan)

    # --- speaking ---------------------------------------------------------------------------------------------------

    async def _come(self, identity: str, plan: MediaPlan) -> None:
        agents = list(self._world.agents.values())
        if not agents:
            self._world.note("world", "media", "nobody listens", "")
            return
        where, agent = agents[plan.target % len(agents)]
        try:
            room = await self._world.rooms.join(where, identity, metadata=json.dumps(asdict(plan)))
            async with room:
                await self._speak(room, plan, agent)
        except (RoomError, TimeoutError):
            pass  # the room was closed, or it was thrown out: what a speaker must live with

    async def _speak(self, room: Room, plan: MediaPlan, agent: str) -> None:
        source = AudioSource(queue_size_ms=20)
        with room.subscribe(events.LocalTrackSubscribed) as heard:
            publication = await room.local_participant.publish_audio(source)
            with anyio.fail_after(_PATIENCE):
                async for _ in heard:
                    break
        for number in range(1, plan.frames + 1):
            await source.capture_frame(array("h", [number]).tobytes() * _SAMPLES)
            if plan.trouble and number == plan.frames // 2:
                await getattr(self, f"_{plan.trouble}")(room, publication, agent)
        await source.wait_for_playout()

    async def _mute(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        publication.mute()
        await anyio.sleep(0.05)
        publication.unmute()

    async def _unpublish(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        await room.local_participant.unpublish_track(publication.sid)

    async def _wire(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        self._world.rooms.set_network(room.name, room.local_participant.identity, Network(loss=0.3, jitter=0.03))

    async def _resume(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        await self._reconnect(room, resume=True)

    async def _rejoin(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        await self._reconnect(room, resume=False)

    async def _reconnect(self, room: Room, *, resume: bool) -> None:
        identity = room.local_participant.identity
        self._world.rooms.interrupt(room.name, identity)
        await anyio.sleep(0.1)
        self._world.rooms.restore(room.name, identity, resume=resume)

    async def _revoke(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        """The agent may not subscribe any more; then it may again."""
        for may in (False, True):
            permissions = ParticipantPermissions(can_subscribe=may)
            self._world.rooms.update_participant(room.name, agent, permissions=permissions)
            await anyio.sleep(0.1)

    async def _vanish(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        self._world.rooms.lose(room.name, room.local_participant.identity)

    async def _remove(self, room: Room, publication: LocalTrackPublication[AudioSource], agent: str) -> None:
        self._world.rooms.remove_participant(room.name, room.local_participant.identity)

    # --- listening --------------------------------------------------------------------------------------------------

    async def listen(
        self,
        life: str,
        ctx: JobContext,
        track: RemoteTrack,
        publication: RemoteTrackPublication,
        participant: RemoteParticipant,
    ) -> None:
        """An agent has subscribed to a speaker: listen as the speaker's card says."""
        plan = json.loads(participant.metadata)
        try:
            stream = track.audio_frames(capacity=plan["capacity"])
        except RoomError:
            return  # the track has gone before its subscription was told
        queue = stream._queue  # pyright: ignore[reportPrivateUsage] - its name in the trace
        assert isinstance(queue, MediaQueue)
        handle_id = queue._handle  # pyright: ignore[reportPrivateUsage]
        ear = _Ear(stream, f"{ctx.room.local_participant.sid}/{handle_id}", plan["capacity"])
        del stream
        try:
            with anyio.move_on_after(_PATIENCE):
                await self._hear(ear, plan["listen"])
                await getattr(self, f"_then_{plan['then']}")(ctx, life, ear, publication)
        except RoomError:
            pass  # the room was closed
        finally:
            # Abandoned here at the latest: who holds no iterator closes its stream.
            ear.stream = None
            self._world.note(life, "media", "heard", ctx.job.id, **ear.report())

    async def _hear(self, ear: _Ear, count: int) -> None:
        assert ear.stream is not None
        while count:
            try:
                frame = await anext(ear.stream)
            except StopAsyncIteration:
                return
            ear.hear(frame)
            count -= 1

    async def _then_read(self, ctx: JobContext, life: str, ear: _Ear, publication: RemoteTrackPublication) -> None:
        await self._hear(ear, -1)

    async def _then_sleep(self, ctx: JobContext, life: str, ear: _Ear, publication: RemoteTrackPublication) -> None:
        await anyio.sleep(0.3)
        assert ear.stream is not None
        while (frame := ear.stream.next_nowait()) is not None:
            ear.hear(frame)

    async def _then_unsubscribe(
        self, ctx: JobContext, life: str, ear: _Ear, publication: RemoteTrackPublication
    ) -> None:
        with ctx.room.subscribe(events.TrackUnsubscribed) as told:
            publication.set_subscribed(False)
            async for event in told:
                if event.publication is publication:
                    break
        self._world.note(life, "media", "unsubscribed", "", stream=ear.label, received=ear.received)
        await anyio.sleep(0.1)
        await self._hear(ear, -1)

    async def _then_close(self, ctx: JobContext, life: str, ear: _Ear, publication: RemoteTrackPublication) -> None:
        assert ear.stream is not None
        ear.forgotten = len(ear.queue)
        ear.stream.close()

    async def _then_abandon(self, ctx: JobContext, life: str, ear: _Ear, publication: RemoteTrackPublication) -> None:
        ear.stream, ear.abandoned = None, True
        await anyio.sleep(0.1)

    async def _then_leave(self, ctx: JobContext, life: str, ear: _Ear, publication: RemoteTrackPublication) -> None:
        """The callback returns, and its iterator goes with it."""
