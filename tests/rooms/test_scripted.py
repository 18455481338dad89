"""Participants that follow a script: each line in its second, through an ordinary room."""

from __future__ import annotations

import wave
from pathlib import Path

import anyio
import pytest
from sounds import RATE, level, subscribed, tone
from venues import next_of

from livekit_agent import RoomClosedError, RoomError, events
from livekit_agent.rooms import MemoryRooms, ScriptedParticipant

pytestmark = pytest.mark.virtual


async def test_one_says_this_wav_at_three_seconds_and_leaves_at_nine(tmp_path: Path) -> None:
    path = tmp_path / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tone(2).tobytes())
    caller = ScriptedParticipant("caller").publishes(0).plays(3, path).leaves(9)
    async with MemoryRooms() as rooms, rooms.join("r", "agent") as agent, anyio.create_task_group() as group:
        left = agent.subscribe(events.ParticipantLeft)
        group.start_soon(caller.perform, rooms, "r")
        track = await subscribed(agent)
        loud: list[float] = []
        with track.audio_frames() as stream:
            async for frame in stream:
                if level(frame.samples) > 0.1:
                    loud.append(anyio.current_time())
        assert (loud[0], loud[-1]) == (pytest.approx(3, abs=0.03), pytest.approx(5, abs=0.03))
        assert len(loud) == pytest.approx(200, abs=2)
        await next_of(left, events.ParticipantLeft)
        assert anyio.current_time() == 9


async def test_lines_are_played_in_the_order_of_their_seconds() -> None:
    script = (
        ScriptedParticipant("b", name="Bob", attributes={"k": "v"})
        .joins(1)
        .sends(4, "third")
        .sends(2, "first", topic="t")
        .sends(2, b"second", reliable=False)
        .tells(5, mood="good")
        .writes(6, "a text", topic="chat")
    )
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, anyio.create_task_group() as group:
        heard = a.subscribe()
        with a.text_streams("chat") as texts:
            group.start_soon(script.perform, rooms, "r")
            joined = await next_of(heard, events.ParticipantJoined)
            assert (anyio.current_time(), joined.participant.name) == (1, "Bob")
            got = [(await next_of(heard, events.DataReceived), anyio.current_time()) for _ in range(3)]
            assert [(packet.data, packet.topic, packet.reliable, at) for packet, at in got] == [
                (b"first", "t", True, 2),
                (b"second", "", False, 2),
                (b"third", "", True, 4),
            ]
            changed = await next_of(heard, events.AttributesChanged)
            assert dict(changed.participant.attributes) == {"k": "v", "mood": "good"}
            assert await (await anext(texts)).read_all() == "a text"
        await next_of(heard, events.ParticipantLeft)
        assert anyio.current_time() == 6


async def test_a_script_hears_what_it_is_told() -> None:
    script = ScriptedParticipant("b").leaves(3)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, anyio.create_task_group() as group:
        group.start_soon(script.perform, rooms, "r")
        await anyio.sleep(1)
        await a.local_participant.publish_data("hello")
        await anyio.sleep(3)
    assert [type(event) for event in script.heard] == [events.ParticipantJoined, events.DataReceived]
    assert script.room is not None
    assert not script.room.is_open


async def test_leaving_cuts_a_sound_short() -> None:
    script = ScriptedParticipant("b").plays(0, tone(60)).leaves(1)
    async with MemoryRooms() as rooms:
        await script.perform(rooms, "r")
        assert anyio.current_time() == 1
        assert rooms.participants("r") == []


async def test_a_script_is_muted_and_loses_its_connection() -> None:
    script = (
        ScriptedParticipant("b").publishes(0).mutes(1).unmutes(2).loses_connection(3, until=4, resume=False).leaves(5)
    )
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, anyio.create_task_group() as group:
        seen = a.subscribe()
        group.start_soon(script.perform, rooms, "r")
        await next_of(seen, events.TrackMuted)
        assert anyio.current_time() == 1
        await next_of(seen, events.TrackUnmuted)
        assert anyio.current_time() == 2
        await next_of(seen, events.ParticipantLeft)
        await next_of(seen, events.ParticipantJoined)
        assert anyio.current_time() == 4
        await next_of(seen, events.ParticipantLeft)
        assert anyio.current_time() == 5
    assert [type(event) for event in script.heard if isinstance(event, events.Reconnecting | events.Reconnected)] == [
        events.Reconnecting,
        events.Reconnected,
    ]


async def test_who_is_thrown_out_says_no_more() -> None:
    script = ScriptedParticipant("b").sends(5, "late")
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, anyio.create_task_group() as group:
        heard = a.subscribe(events.DataReceived)
        group.start_soon(script.perform, rooms, "r")
        await anyio.sleep(1)
        assert rooms.remove_participant("r", "b")
        await anyio.sleep(9)
        assert heard.next_nowait() is None


async def test_what_a_line_raises_comes_out() -> None:
    async with MemoryRooms() as rooms:
        with pytest.RaisesGroup(RoomError):
            await ScriptedParticipant("b").mutes(1).perform(rooms, "r")
        assert rooms.participants("r") == []

        async def fail(stage: object) -> None:
            raise RoomClosedError("as it happens")

        with pytest.RaisesGroup(RoomClosedError):
            await ScriptedParticipant("b").does(1, fail).perform(rooms, "r")


async def test_a_performance_that_is_cancelled_leaves_the_room() -> None:
    async with MemoryRooms() as rooms:
        with anyio.move_on_after(2):
            await ScriptedParticipant("b").plays(1, tone(60)).sends(9, "x").perform(rooms, "r")
        assert anyio.current_time() == 2
        assert rooms.participants("r") == []


def test_a_line_stands_at_a_second() -> None:
    for at in (-1, float("nan")):
        with pytest.raises(ValueError, match="a line stands at a second"):
            ScriptedParticipant("b").sends(at, "x")
