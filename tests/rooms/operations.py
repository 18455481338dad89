"""What can be done in a room, as operations that can be given up: each public thing that waits is in one of them.

Each is given the rooms, a room to act in, and the room of another participant, who is there and subscribed.  None takes
longer than a fraction of a second of virtual time, and none leaves anything behind when it ends by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from livekit_agent import RpcError, events
from livekit_agent.rooms import (
    AudioFrame,
    AudioMixer,
    AudioOptions,
    AudioSource,
    AvSynchronizer,
    DataSchema,
    EncodedVideoFrame,
    EncodedVideoSource,
    MemoryRooms,
    RemoteDataTrack,
    Room,
    RpcCall,
    RpcInterceptor,
    Scenario,
    ScriptedParticipant,
    TrackSource,
    TranscriptionSegment,
    VideoCodec,
    VideoFrame,
    VideoSource,
)

HERSELF = Path(__file__).read_bytes()

Operation = Callable[[MemoryRooms, Room, Room], Awaitable[object]]


async def join_and_leave(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with await rooms.join("r", "late") as late:
        await late.local_participant.publish_data(b"hello")


async def leave(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.disconnect()


async def send_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.publish_data(b"x", topic="t")


async def hear_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.subscribe(events.DataReceived) as heard:
        await b.local_participant.publish_data(b"x")
        await anext(aiter(heard))


async def wait_for_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(partial(b.local_participant.publish_data, b"x"))
        await a.wait_for(events.DataReceived)


async def wait_until_closed(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(b.disconnect)
        await b.wait_closed()


async def describe_oneself(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.set_metadata("m")
    await a.local_participant.set_name("n")
    await a.local_participant.set_attributes({"k": "v"})


async def publish_and_unpublish(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await a.local_participant.publish_audio()
    await publication.wait_for_subscription()
    await a.local_participant.unpublish_track(publication.sid)


async def speak(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await a.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    source = publication.track.source
    for _ in range(3):
        await source.capture_frame(duration=0.01)
    await source.wait_for_playout()


async def play(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await a.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    await publication.track.source.play(bytes(2 * 480 * 4))


async def listen(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await b.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    async with anyio.create_task_group() as group:
        group.start_soon(partial(publication.track.source.capture_frame, duration=0.05))
        async for _ in a.remote_participants["b"].audio():
            break
        group.cancel_scope.cancel()


async def show_and_watch(rooms: MemoryRooms, a: Room, b: Room) -> None:
    source = VideoSource(16, 16)
    await b.local_participant.publish_video(source)
    async with anyio.create_task_group() as group:
        group.start_soon(_show, source)
        async for _ in a.remote_participants["b"].video():
            break
        group.cancel_scope.cancel()


async def _show(source: VideoSource) -> None:
    frame = VideoFrame.of(np.zeros((16, 16, 4), np.uint8))
    while True:
        source.capture_frame(frame)
        await anyio.sleep(0.03)


async def call(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with b.serve_rpc({"echo": lambda asked: asked.payload}):
        assert await a.local_participant.perform_rpc("b", "echo", "x") == "x"


async def be_called(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async def slowly(asked: RpcCall) -> str:
        await anyio.sleep(0.01)
        return asked.payload

    async def ask() -> None:
        try:
            await b.local_participant.perform_rpc("a", "slowly", "x")
        except RpcError:
            return  # the block that served it was left

    async with anyio.create_task_group() as group:
        async with a.serve_rpc({"slowly": slowly}):
            group.start_soon(ask)
            await anyio.sleep(0.05)


async def send_text(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.send_text("hello " * 100, topic="t")


async def write_text(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with a.local_participant.stream_text(topic="t") as writer:
        await writer.write("one")
        await writer.write("two")


async def write_bytes(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with a.local_participant.stream_bytes(topic="t", name="n") as writer:
        await writer.write(b"one")
        await writer.write(b"two")


async def send_bytes(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.send_bytes(bytes(200_000), topic="t", name="n")


async def read_text(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.text_streams("t") as texts:
        await b.local_participant.send_text("hello", topic="t")
        reader = await anext(aiter(texts))
        assert await reader.read_all() == "hello"


async def read_bytes(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.byte_streams("t") as files:
        await b.local_participant.send_bytes(bytes(100_000), topic="t", name="n")
        reader = await anext(aiter(files))
        async for _ in reader:
            pass


async def send_file(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with b.byte_streams("t") as files:
        await a.local_participant.send_file(Path(__file__), topic="t")
        reader = await anext(files)
        assert await reader.read_all() == HERSELF


async def use_a_data_track(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with await a.local_participant.publish_data_track("sensor") as track:
        remote = await _data_track(b)
        with remote.frames() as frames:
            async with anyio.create_task_group() as group:
                group.start_soon(_push, track.push)
                assert (await anext(frames)).payload == b"x"
                group.cancel_scope.cancel()


async def hear_a_data_track(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with await b.local_participant.publish_data_track("sensor") as track:
        remote = await _data_track(a)
        async with anyio.create_task_group() as group:
            group.start_soon(_push, track.push)
            async with aclosing(remote.frames()) as frames:
                assert (await anext(frames)).payload == b"x"
            group.cancel_scope.cancel()


async def _data_track(room: Room) -> RemoteDataTrack:
    with room.subscribe(events.DataTrackPublished, replay=True) as heard:
        event = await anext(heard)
        assert isinstance(event, events.DataTrackPublished)
        return event.track


async def _push(push: Callable[[bytes], bool]) -> None:
    while True:
        push(b"x")
        await anyio.sleep(0.01)


async def describe_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    schema = DataSchema(name="point", encoding="protobuf")
    await a.local_participant.define_data_schema(schema, "message Point {}")
    assert await b.local_participant.data_schema("a", schema) == "message Point {}"


async def chat(rooms: MemoryRooms, a: Room, b: Room) -> None:
    message = await a.local_participant.send_chat("hello")
    message = await a.local_participant.edit_chat(message, "hullo")
    await a.local_participant.delete_chat(message)


async def transcribe(rooms: MemoryRooms, a: Room, b: Room) -> None:
    said = TranscriptionSegment(id="1", text="hello", start=0, end=1, final=True, language="en")
    await a.local_participant.publish_transcription([said], track_sid="TR_x", participant_identity="b")


async def dial(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.publish_dtmf("1")


async def count(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.rtc_statistics()
    publication = await a.local_participant.publish_audio()
    track = await b.wait_for_track("a")
    await publication.rtc_statistics()
    await track.rtc_statistics()
    await a.local_participant.unpublish_track(publication.sid)


async def reconnect(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.subscribe(events.Reconnected) as heard:
        await a.simulate(Scenario.FULL_RECONNECT)
        await anext(heard)


async def flood(rooms: MemoryRooms, a: Room, b: Room) -> None:
    a.local_participant.set_data_threshold(1)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(a.local_participant.publish_data, b"much")


async def wait_for_people_and_tracks(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(b.local_participant.publish_audio)
        await a.wait_for_publication("b")
        await a.wait_for_track("b")
        await a.wait_until(lambda: a.remote_participants["b"].publication(TrackSource.MICROPHONE))
    person = await a.wait_for_participant("b", active=True)
    await person.wait_until_active()
    with anyio.move_on_after(0.001):
        await a.wait_for_participant("nobody")


async def attend(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async def talk_to(person: object) -> None:
        await anyio.sleep_forever()

    async with a.per_participant(talk_to):
        async with await rooms.join("r", "late"):
            await anyio.sleep(0.01)


async def follow_a_voice(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with _speaking(b), aclosing(a.remote_participants["b"].audio()) as frames:
        await anext(frames)
    async with aclosing(a.remote_participants["b"].audio()) as frames, _speaking(b):
        await anext(frames)


@asynccontextmanager
async def _speaking(room: Room) -> AsyncGenerator[Any]:
    publication = await room.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    source = publication.track.source
    async with anyio.create_task_group() as group:
        group.start_soon(partial(source.capture_frame, duration=0.2))
        yield publication
        group.cancel_scope.cancel()
    await room.local_participant.unpublish_track(publication.sid)


async def hear_a_track(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with _speaking(b):
        track = await a.wait_for_track("b")
        async with aclosing(track.audio_frames()) as frames:
            await anext(frames)


async def mix(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async def voice() -> AsyncGenerator[AudioFrame]:
        for _ in range(150):
            yield AudioFrame(data=bytes(960), sample_rate=48_000, num_channels=1)

    async with aclosing(voice()) as one, aclosing(voice()) as other, AudioMixer() as mixer:
        mixer.add(one)
        mixer.add(other)
        mixer.end_input()
        async for _ in mixer:
            pass


async def synchronise(rooms: MemoryRooms, a: Room, b: Room) -> None:
    audio, video = AudioSource(queue_size_ms=20), VideoSource(16, 16)
    sound = await a.local_participant.publish_audio(audio)
    picture = await a.local_participant.publish_video(video)
    both = AvSynchronizer(audio, video, fps=100)
    for _ in range(2):
        await both.push_audio(AudioFrame(data=bytes(960), sample_rate=48_000, num_channels=1))
        await both.push_video(VideoFrame.of(np.zeros((16, 16, 4), np.uint8)))
    await both.wait_for_playout()
    await a.local_participant.unpublish_track(sound.sid)
    await a.local_participant.unpublish_track(picture.sid)


async def publish_what_is_compressed(rooms: MemoryRooms, a: Room, b: Room) -> None:
    source = EncodedVideoSource(16, 16, codec=VideoCodec.VP8)
    publication = await a.local_participant.publish_encoded_video(source)
    source.capture_frame(EncodedVideoFrame(data=b"x", width=16, height=16, key=True, timestamp_us=1))
    await a.local_participant.unpublish_track(publication.sid)


async def record_before_connecting(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with b.preconnect_audio() as recordings:
        publication = await a.local_participant.publish_audio(options=AudioOptions(preconnect_buffer=True))
        said = AudioFrame(data=bytes(960), sample_rate=48_000, num_channels=1)
        await a.local_participant.send_preconnect_audio(publication, [said])
        assert (await anext(recordings)).frame.data == said.data
        await a.local_participant.unpublish_track(publication.sid)


async def intercept(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.intercept_rpc(RpcInterceptor()), b.intercept_rpc(RpcInterceptor()):
        async with b.serve_rpc() as server:
            with server.register("echo", lambda asked: asked.payload):
                await a.local_participant.perform_rpc("b", "echo", "x")


async def perform_a_script(rooms: MemoryRooms, a: Room, b: Room) -> None:
    actor = ScriptedParticipant("actor").sends(0, b"x").plays(0, np.zeros(480, np.int16)).writes(0.01, "hello")
    await actor.loses_connection(0.02, until=0.03).perform(rooms, "r")


async def close_what_iterates(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with aclosing(a.subscribe(events.DataReceived)), aclosing(a.text_streams("t")) as texts:
        async with b.local_participant.stream_text(topic="t") as writer:
            async with aclosing(await anext(texts)):
                await writer.write("hello")


OPERATIONS: list[Operation] = [
    join_and_leave, leave, send_data, hear_data, wait_for_data, wait_until_closed, describe_oneself,
    publish_and_unpublish, speak, play, listen, show_and_watch, call, be_called, send_text, write_text, write_bytes,
    send_bytes, read_text, read_bytes, send_file, use_a_data_track, hear_a_data_track, describe_data, chat, transcribe,
    dial, count, reconnect, flood, wait_for_people_and_tracks, attend, follow_a_voice, hear_a_track, mix, synchronise,
    publish_what_is_compressed, record_before_connecting, intercept, perform_a_script, close_what_iterates,
]  # fmt: skip
