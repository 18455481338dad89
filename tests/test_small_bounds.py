"""What happens at the smaller limits: of what is parsed, shown to people and drawn, and between two looks."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from livekit.protocol import agent as pb
from livekit.protocol import models

from livekit_agent import CustomLoadCalculator, HandshakeError, Job, JobContext, JobType, RoomError, WorkerStats
from livekit_agent import _bounds as bounds
from livekit_agent import _types as types
from livekit_agent._errors import printable
from livekit_agent.cli import _demo, _join
from livekit_agent.dispatch import _accept, _room_line
from livekit_agent.protocol import Role, _codec, _websocket
from livekit_agent.protocol._frame_guard import FrameGuard
from livekit_agent.protocol._websocket import WebSocket
from livekit_agent.rooms import MemoryRooms, VideoFrame, VideoSource
from livekit_agent.rooms._proto import audio
from livekit_agent.simulation._errors import TaskLine, deadlock
from livekit_agent.simulation._overheard import overheard
from protocol import frames
from protocol.test_handshake import answered, http
from runtime.harness import world
from simulation.dialogue import judged

virtual = pytest.mark.virtual

# ------------------------------------------------------------------------------------------------ the wire


def test_text_is_read_as_deep_as_its_bound_and_no_deeper(monkeypatch: pytest.MonkeyPatch) -> None:
    job = pb.Job(id="AJ_1", room=models.Room(name="r"))
    text = _codec.serialize(pb.ServerMessage(availability=pb.AvailabilityRequest(job=job)), json=True)
    monkeypatch.setattr(_codec, "JSON_DEPTH_MAX", 4)
    _codec.decode(Role.SERVER, text, wall=0.0)
    monkeypatch.setattr(_codec, "JSON_DEPTH_MAX", 3)
    with pytest.raises(_codec.Undecodable):
        _codec.decode(Role.SERVER, text, wall=0.0)


def test_a_flood_of_empty_frames_is_taken_by_the_hundred() -> None:
    flood = bytes((0x82, 0)) * (bounds.FRAMES_AT_ONCE_MAX + 1)
    found, end = FrameGuard(masked=False).plain(flood, 0)
    assert (len(found), end) == (bounds.FRAMES_AT_ONCE_MAX, len(flood) - 2)


def test_of_a_refusal_as_much_is_read_as_its_error_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_websocket, "REFUSAL_BYTES_MAX", 10)
    endless = http("500 x", b"." * 1000)[:-989]  # eleven bytes of a thousand, and no more is waited for
    error = answered(endless.replace(b"." * 11, b"0123456789x")).closed.error
    assert isinstance(error, HandshakeError)
    assert "0123456789" in str(error)
    assert "789x" not in str(error)


def test_the_reason_of_our_close_fits_a_control_frame() -> None:
    socket = WebSocket(Role.WORKER)
    socket.request_upgrade("h", "/agent", {})
    list(socket.receive_data(frames.switching_protocols(socket.take_outbox())))
    socket._fail(1002, "x" * 500)
    ((close,), rest) = frames.read_frames(socket.take_outbox())
    assert (close.payload, rest) == (b"\x03\xea" + b"x" * bounds.CLOSE_REASON_CHARS_MAX, b"")


@virtual
async def test_a_read_takes_no_more_than_its_bound() -> None:
    asked: list[int] = []
    async with world() as w:
        await w.gateway.registered()
        session: Any = w.worker._supervisor.session
        stream = session._stream
        receive = stream.receive

        async def noted(size: int = 0) -> bytes:
            asked.append(size)
            return bytes(await receive(size))

        stream.receive = noted
        w.line.offer("AJ_1")
        await w.gateway.answer("AJ_1")
        w.line.offer("AJ_2")
        await w.gateway.answer("AJ_2")
    assert set(asked) == {bounds.READ_BYTES_MAX}


# ------------------------------------------------------------------------------------------------ the worker


@virtual
async def test_the_load_is_reckoned_anew_at_its_interval() -> None:
    asked: list[float] = []

    def load(stats: WorkerStats) -> float:
        asked.append(anyio.current_time())
        return 0.5

    async with world(load_calculator=CustomLoadCalculator(calculator=load), max_jobs=None) as w:
        await w.gateway.registered()
        asked.clear()
        began = anyio.current_time()
        await anyio.sleep(3 * bounds.LOAD_INTERVAL + 0.1)
        assert [at - began for at in asked] == [n * bounds.LOAD_INTERVAL for n in (1, 2, 3)]


@virtual
async def test_the_proof_of_a_status_is_waited_for_half_the_flush_and_then_the_room_is_left() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(1)

    async with world(assigned) as w:
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        w.line.freeze()
        await anyio.sleep(10)
        assert w.times["AJ_1 left"] - w.times["AJ_1 RUNNING"] == 1 + bounds.DELIVERY_TIMEOUT


def test_a_job_s_metadata_is_parsed_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "JOB_JSON_CHARS_MAX", 4)
    assert Job(id="AJ_1", type=JobType.ROOM, metadata="[12]").metadata_json() == [12]
    with pytest.raises(ValueError, match="5 characters is too long"):
        Job(id="AJ_1", type=JobType.ROOM, metadata="[123]").metadata_json()


# ------------------------------------------------------------------------------------------------ rooms


@virtual
async def test_a_burst_of_pushes_is_taken_up_to_the_queue_s_bound() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b"):
        async with await a.local_participant.publish_data_track("sensor") as track:
            taken = [track.push(b"x") for _ in range(20)]
            assert taken == [True] * bounds.DATA_TRACK_PUSH_FRAMES_MAX + [False] * 4


@virtual
async def test_a_data_track_s_queue_is_as_long_as_its_bound_at_most() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_data_track("sensor")
        await b.wait_until(lambda: b.data_tracks)
        [track] = b.data_tracks.values()
        for capacity in (0, bounds.DATA_TRACK_FRAMES_MAX + 1, 2**31):
            with pytest.raises(ValueError, match="it holds 1 to 65536"):
                track.frames(capacity=capacity)
        with track.frames(capacity=bounds.DATA_TRACK_FRAMES_MAX) as frames:
            assert frames.statistics().waiting == 0


def test_a_picture_has_sides_that_a_picture_can_have() -> None:
    side = bounds.PICTURE_SIDE_MAX
    VideoSource(side, 4)
    for width, height in ((side + 1, 1), (1, side + 1), (0, 1), (1, -1)):
        with pytest.raises(ValueError, match="each side must be 1 to 16384 pixels"):
            VideoSource(width, height)


def test_a_picture_that_is_sent_can_be_halved_twice() -> None:
    side = bounds.SENT_PICTURE_SIDE_MIN
    source = VideoSource(side, side)
    for width, height in ((side - 1, side), (side, side - 1), (1, 1)):
        with pytest.raises(ValueError, match="each side must be 4 pixels or more"):
            VideoSource(width, height)
        with pytest.raises(ValueError, match="each side must be 4 pixels or more"):
            source.capture_frame(VideoFrame(data=bytes(4 * width * height), width=width, height=height))


def test_a_source_of_a_room_on_a_server_queues_no_more_than_a_minute() -> None:
    asked = audio.NewAudioSourceRequest(sample_rate=48_000, num_channels=1)
    asked.queue_size_ms = bounds.REMOTE_QUEUE_MS_MAX
    _room_line._check("new_audio_source", asked, ())
    asked.queue_size_ms += 1
    with pytest.raises(RoomError, match="numbers out of range"):
        _room_line._check("new_audio_source", asked, ())


@virtual
async def test_a_room_that_everybody_has_left_closes_after_its_departure_timeout() -> None:
    async with MemoryRooms() as rooms:
        async with rooms.join("r", "a"):
            pass
        await anyio.sleep(bounds.ROOM_DEPARTURE_TIMEOUT - 0.001)
        assert [room.name for room in rooms.list_rooms()] == ["r"]
        await anyio.sleep(0.002)
        assert rooms.list_rooms() == []


# ------------------------------------------------------------------------------------------------ the dispatch server


@virtual
async def test_without_descriptors_accepting_is_tried_again_after_each_pause() -> None:
    tried: list[float] = []
    stream: Any = object()

    async def accept() -> Any:
        await anyio.lowlevel.checkpoint()
        tried.append(anyio.current_time())
        if len(tried) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return stream

    listener: Any = SimpleNamespace(accept=accept)
    assert await _accept._accept(listener) is stream
    assert tried == [0, bounds.ACCEPT_PAUSE, 2 * bounds.ACCEPT_PAUSE]


# ------------------------------------------------------------------------------------------------ what people see


def test_a_peer_s_text_is_one_line_of_a_few_words() -> None:
    assert printable("x" * bounds.PRINTED_CHARS_MAX) == "x" * bounds.PRINTED_CHARS_MAX
    assert printable("x" * 1000) == "x" * (bounds.PRINTED_CHARS_MAX - 1) + "…"


@virtual
async def test_a_message_too_long_to_be_shown_is_told_and_the_next_one_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_join, "SHOWN_TEXT_BYTES_MAX", 5)
    visitor = _join.Terminal({}, as_json=False)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        with b.text_streams("lk.chat") as texts:
            for text in ("too long", "short"):
                await a.local_participant.send_text(text, topic="lk.chat")
                await visitor._hear_stream(await anext(texts))
    first, second = capsys.readouterr().out.splitlines()
    assert "! a message of a:" in first
    assert "short" in second


@virtual
async def test_a_demo_that_hangs_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*args: Any) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(_demo, "_play", hangs)
    with pytest.raises(TimeoutError):
        await _demo._demo(True, "trio")
    assert anyio.current_time() == bounds.DEMO_TIMEOUT


def test_a_deadlock_s_report_shows_two_hundred_tasks_and_counts_all() -> None:
    told = str(deadlock(1.0, (TaskLine(depth=0, name=f"task {n}", where="x.py:1") for n in range(1_000))))
    assert "all 1000 tasks wait" in told
    assert "task 199:" in told
    assert "task 200:" not in told
    assert "… and 800 more" in told


def test_a_violation_shows_the_latest_notes() -> None:
    history = "\n".join(f"{n} w0.1 worker started -" for n in range(100))
    violation = judged(history + "\n100 w0.1#1 dial - -\n101 w0.1#1 token - - seconds_left=-5.0\n").violations[-1]
    assert len(violation.tail) == bounds.VIOLATION_NOTES_MAX


def test_of_records_that_show_a_secret_the_first_are_kept() -> None:
    log = logging.getLogger("livekit_agent.test")
    with overheard() as ear:
        for number in range(bounds.LEAKS_KEPT_MAX + 5):
            log.info("simsecret %d", number)
    assert len(ear.leaks) == bounds.LEAKS_KEPT_MAX
    assert ear.leaks[-1].endswith(str(bounds.LEAKS_KEPT_MAX - 1))
    assert ear.read == bounds.LEAKS_KEPT_MAX + 5
