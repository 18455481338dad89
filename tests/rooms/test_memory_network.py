"""Rooms in memory: how long things take, what a wire loses, and connections that break."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from random import Random

import anyio
import anyio.lowlevel
import pytest
from sounds import hum, level, subscribed
from venues import next_of

from livekit_agent import ConfigError, events
from livekit_agent.rooms import AudioSource, ConnectionState, Delays, MemoryRooms, Network, Room, Subscription

pytestmark = pytest.mark.virtual


# ------------------------------------------------------------------------------------------------ delays


async def test_a_profile_is_named_and_an_unknown_name_says_which_there_are() -> None:
    assert MemoryRooms().delays.name == "instant"
    assert MemoryRooms(delays="livekit-1.13").delays.name == "livekit-1.13"
    assert MemoryRooms(delays=Delays(other=0.5)).delays.other == 0.5
    with pytest.raises(ConfigError, match="livekit-9") as caught:
        MemoryRooms(delays="livekit-9")
    assert "livekit-1.13" in caught.value.hint


async def test_instantly_a_room_is_joined_and_left_in_no_time() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        await subscribed(b)
    assert anyio.current_time() == 0


async def test_in_the_profile_of_a_real_server_each_step_takes_its_time() -> None:
    async with MemoryRooms(delays="livekit-1.13") as rooms:
        async with rooms.join("r", "a") as a, rooms.join("r", "b") as b:
            assert anyio.current_time() == pytest.approx(0.08)
            async with anyio.create_task_group() as group:
                group.start_soon(a.local_participant.publish_audio)
                await b.wait_for(events.TrackSubscribed)
            assert anyio.current_time() == pytest.approx(0.08 + 0.065)


async def what_is_told(delays: str) -> dict[str, list[str]]:
    """Two meet, talk and part: what each is told, in order."""
    told: dict[str, list[str]] = {"a": [], "b": []}
    kept: list[Subscription] = []  # the rooms keep none

    def note(room: Room) -> None:
        identity = room.local_participant.identity
        subscription = room.subscribe()
        kept.append(subscription)
        put = subscription.put
        subscription.put = lambda event: (told[identity].append(type(event).__name__), put(event))[1]  # type: ignore[method-assign]

    async with MemoryRooms(delays=delays) as rooms:
        async with rooms.join("r", "a") as a:
            note(a)
            async with rooms.join("r", "b") as b:
                note(b)
                published = await b.local_participant.publish_audio()
                await subscribed(a)
                for number in range(3):
                    await a.local_participant.publish_data(str(number))
                published.mute()
                await b.local_participant.unpublish_track(published.sid)
                await anyio.sleep(1)
            await anyio.sleep(1)
    return told


async def test_delays_change_no_order() -> None:
    assert await what_is_told("instant") == await what_is_told("livekit-1.13")


async def test_nothing_is_left_on_its_way_when_the_rooms_close() -> None:
    async with MemoryRooms(delays=Delays(other=10.0)) as rooms:
        room = await rooms.join("r", "a", timeout=100)
        await room.local_participant.publish_data(b"x")
    assert anyio.current_time() == 20
    await anyio.lowlevel.checkpoint()
    assert not room.is_open


# ------------------------------------------------------------------------------------------------ the wire


async def packets(rooms: MemoryRooms, count: int, *, reliable: bool) -> list[tuple[float, int]]:
    """When each packet that b got arrived, and its number."""
    got: list[tuple[float, int]] = []
    async with rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        heard = b.subscribe(events.DataReceived)
        for number in range(count):
            await a.local_participant.publish_data(str(number), reliable=reliable)
            await anyio.sleep(0.01)
            while (event := heard.next_nowait()) is not None:
                assert isinstance(event, events.DataReceived)
                got.append((anyio.current_time(), int(event.data)))
        await anyio.sleep(5)
        while (event := heard.next_nowait()) is not None:
            assert isinstance(event, events.DataReceived)
            got.append((anyio.current_time(), int(event.data)))
    return got


async def test_a_lossy_wire_loses_its_share_of_lossy_packets_and_none_of_the_others() -> None:
    async with MemoryRooms(rng=Random(1), network=Network(loss=0.1)) as rooms:
        # Two wires, each losing a tenth.
        assert 0.15 < 1 - len(await packets(rooms, 1_000, reliable=False)) / 1_000 < 0.23
        assert [number for _, number in await packets(rooms, 200, reliable=True)] == list(range(200))


async def test_a_wire_with_jitter_keeps_reliable_packets_in_order() -> None:
    async with MemoryRooms(rng=Random(1), network=Network(latency=0.05, jitter=0.2)) as rooms:
        assert [number for _, number in await packets(rooms, 200, reliable=True)] == list(range(200))


async def test_lossy_packets_are_overtaken_only_where_the_wire_reorders() -> None:
    async with MemoryRooms(rng=Random(1), network=Network(jitter=0.2)) as rooms:
        numbers = [number for _, number in await packets(rooms, 200, reliable=False)]
        assert numbers == list(range(200))
    async with MemoryRooms(rng=Random(1), network=Network(jitter=0.2, reorder=0.3)) as rooms:
        numbers = [number for _, number in await packets(rooms, 200, reliable=False)]
        assert sorted(numbers) == list(range(200))
        assert sum(later < earlier for earlier, later in pairwise(numbers)) > 10


async def test_one_participants_wire_is_its_own() -> None:
    async with MemoryRooms(rng=Random(1)) as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        async with rooms.join("r", "c") as c:
            rooms.set_network("r", "c", Network(loss=1.0))
            to_b, to_c = b.subscribe(events.DataReceived), c.subscribe(events.DataReceived)
            await a.local_participant.publish_data(b"x", reliable=False)
            await anyio.sleep(1)
            assert (len(to_b), len(to_c)) == (1, 0)


async def test_lost_sound_is_silence_and_no_gap() -> None:
    async with MemoryRooms(rng=Random(1)) as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        rooms.set_network("r", "a", Network(loss=0.2))
        async with anyio.create_task_group() as group:
            source = AudioSource()
            await a.local_participant.publish_audio(source)
            track = await subscribed(b)
            group.start_soon(hum, source)
            with track.audio_frames() as stream:
                frames = [await anext(stream) for _ in range(1_000)]
            group.cancel_scope.cancel()
    silent = sum(level(frame.samples) < 0.01 for frame in frames)
    assert 150 < silent < 260
    assert Counter(frame.samples_per_channel for frame in frames) == {480: 1_000}


async def test_a_wire_that_is_not_one_is_refused() -> None:
    for wrong in (
        {"loss": 1.5},
        {"reorder": -0.1},
        {"latency": -1.0},
        {"jitter": -1.0},
        {"latency": math.nan},
        {"jitter": math.inf},
    ):
        with pytest.raises(ValueError, match=r"between 0 and 1|less than 0"):
            Network(**wrong)


# ------------------------------------------------------------------------------------------------ reconnects


async def test_a_resume_keeps_everything() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        published = await a.local_participant.publish_audio()
        track = await subscribed(b)
        sid, heard = published.sid, a.subscribe()
        rooms.interrupt("r", "a")
        await next_of(heard, events.Reconnecting)
        assert a.connection_state == ConnectionState.RECONNECTING
        rooms.restore("r", "a")
        await next_of(heard, events.Reconnected)
        assert (a.connection_state, published.sid) == (ConnectionState.CONNECTED, sid)
        assert b.remote_participants["a"].track_publications[sid].track is track


async def test_a_full_reconnect_brings_everybody_and_our_tracks_back_as_new() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        source = AudioSource()
        published = await a.local_participant.publish_audio(source)
        await b.local_participant.publish_audio()
        first = await subscribed(b)
        await subscribed(a)
        sid, me = published.sid, a.local_participant
        own, theirs = a.subscribe(), b.subscribe()
        rooms.interrupt("r", "a")
        rooms.restore("r", "a", resume=False)
        await anyio.sleep(1)
        told = [type(event).__name__ for event in iter(own.next_nowait, None)]
        assert told == [
            "Reconnecting",
            "TrackUnsubscribed",
            "TrackUnpublished",
            "ParticipantLeft",
            "ParticipantJoined",
            "ParticipantActive",
            "LocalTrackRepublished",
            "Reconnected",
            "TrackPublished",
            "TrackSubscribed",
            "Rejoined",
            "LocalTrackSubscribed",
        ]
        seen = [type(event).__name__ for event in iter(theirs.next_nowait, None)]
        assert seen == [
            "TrackUnsubscribed",
            "TrackUnpublished",
            "ParticipantLeft",
            "ParticipantJoined",
            "ParticipantActive",
            "TrackPublished",
            "TrackSubscribed",
        ]
        assert published.sid != sid
        assert dict(me.track_publications) == {published.sid: published}
        async with anyio.create_task_group() as group:
            group.start_soon(hum, source)
            again = await subscribed(b)
            assert again is not first
            with again.audio_frames() as stream:
                while level((await anext(stream)).samples) < 0.1:
                    pass
            group.cancel_scope.cancel()
        await me.unpublish_track(published.sid)
        assert dict(me.track_publications) == {}
