"""The server as a whole: sockets and pipes, rooms that start and end jobs, clients that stall, time."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio._backends import _asyncio as asyncio_backend
from anyio.abc import ByteStream
from dispatch_world import StreamWorker

from livekit_agent import ConfigError, Job, JobType, SimpleUniversalHandler, UniversalWorker, WorkerOptions
from livekit_agent._bounds import SERVER_OUTBOX_BYTES_MAX
from livekit_agent.dispatch import (
    DispatchEvent,
    DispatchServer,
    JobAssigned,
    JobEnded,
    JobPhase,
    WorkerGone,
    WorkerRegistered,
)
from livekit_agent.protocol import mint_token
from livekit_agent.rooms import AudioSource, MemoryRooms

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[DispatchServer]:
    """A server without sockets."""
    async with DispatchServer(port=None, api_key=KEY, api_secret=SECRET, **options) as server:
        yield server


async def worker_of(server: DispatchServer, stream: ByteStream | None = None, **fields: Any) -> StreamWorker:
    if stream is None:
        stream = await server.memory_connector()(None)
    return await StreamWorker.register(stream, server.api_key, server.api_secret, time.time(), **fields)


# ------------------------------------------------------------------------------------------------------- the basics


@pytest.mark.virtual
async def test_who_waits_looks_again_when_somebody_comes_into_a_room_for_whom_nobody_is_dispatched() -> None:
    seen: list[float] = []
    async with serving() as server, server.rooms.join("r", "ada"), anyio.create_task_group() as tasks:

        async def wait() -> None:
            await server.wait_for(lambda: len(server.rooms.participants("r")) == 2, 60)
            seen.append(anyio.current_time())

        tasks.start_soon(wait)
        await anyio.sleep(5)
        async with server.rooms.join("r", "bob"):
            await anyio.sleep(5)
        assert seen == [5]


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "pipe"])
async def test_a_job_from_dispatch_to_end(socket: bool) -> None:
    async with DispatchServer(port=0 if socket else None) as server:
        stream = await anyio.connect_tcp("127.0.0.1", server.port or 0) if socket else None
        worker = await worker_of(server, stream, agent_name="a")
        assert list(server.workers) == [worker.id]

        dispatch = server.create_dispatch("room", "a", metadata="m")
        assignment = await worker.take_job()
        job = server.jobs[assignment.job.id]
        assert (job.dispatch_id, job.room, job.phase, job.worker_id) == (
            dispatch.id, "room", JobPhase.RUNNING, worker.id,
        )  # fmt: skip
        await worker.report(job.id, "SUCCESS")
        await server.wait_for(lambda: job.phase is JobPhase.ENDED, timeout=5)
        assert (job.status, job.state.status, [update.status for update in job.history]) == (2, 2, [2])
        await worker.stream.aclose()
        await server.wait_for(lambda: not server.workers, timeout=5)


async def test_a_server_makes_its_own_key_and_secret_and_shows_neither() -> None:
    async with DispatchServer() as one, DispatchServer() as two:
        assert one.port != two.port
        assert (one.api_key, one.api_secret) != (two.api_key, two.api_secret)
        assert len(one.api_secret) >= 32
        assert one.api_secret not in repr(one)
        assert one.url == f"ws://127.0.0.1:{one.port}"
        assert one.http_url == f"http://127.0.0.1:{one.port}"


async def test_it_listens_on_loopback_only() -> None:
    async with DispatchServer() as server:
        with pytest.raises(OSError):  # noqa: PT011 - refused here, unreachable there
            await anyio.connect_tcp("127.0.0.2", server.port or 0)


async def test_a_port_that_is_taken_is_an_os_error() -> None:
    async with DispatchServer() as server:
        with pytest.raises(OSError):  # noqa: PT011 - the platform's words
            async with DispatchServer(port=server.port):
                pass


def test_rooms_with_other_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="the rooms do not accept"):
        DispatchServer(api_key=KEY, api_secret=SECRET, rooms=MemoryRooms({KEY: "another"}))
    with pytest.raises(ConfigError, match="belong together"):
        DispatchServer(api_key=KEY)


def test_the_rooms_keys_are_taken_over() -> None:
    server = DispatchServer(rooms=MemoryRooms({KEY: SECRET}))
    assert (server.api_key, server.api_secret) == (KEY, SECRET)


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with serving() as server:
            await worker_of(server)
            raise KeyError("mine")


async def test_leaving_the_block_drops_the_workers_without_a_close_frame() -> None:
    async with serving() as server:
        worker = await worker_of(server)
    await worker.hear_the_end()
    assert worker.wire.close_code is None


async def test_after_the_block_a_connector_is_refused() -> None:
    async with serving() as server:
        connect = server.memory_connector()
    with pytest.raises(ConnectionRefusedError):
        await connect(None)


# ---------------------------------------------------------------------------------------------------- events, waiting


async def test_events_tell_the_story_in_order() -> None:
    async with serving() as server:
        feed = server.events(WorkerRegistered, JobAssigned, JobEnded, WorkerGone)
        worker = await worker_of(server, agent_name="a")
        server.create_dispatch("room", "a")
        job = (await worker.take_job()).job
        await worker.report(job.id, "FAILED", "boom")
        await worker.stream.send(worker.wire.close())
        await worker.hear_the_end()
    story = [event async for event in feed]
    assert [type(event) for event in story] == [WorkerRegistered, JobAssigned, JobEnded, WorkerGone]
    ended = story[2]
    assert isinstance(ended, JobEnded)
    assert (ended.job.id, ended.status, ended.error) == (job.id, 3, "boom")


async def test_a_feed_that_nobody_reads_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit_agent.dispatch._feed.SERVER_EVENTS_MAX", 3)
    async with serving() as server:
        with server.events() as feed:
            for number in range(5):
                server.create_dispatch(f"r{number}")
        assert feed.dropped > 0
        assert len([event async for event in feed]) == 3


async def test_waiting_in_vain_times_out() -> None:
    async with serving() as server:
        with pytest.raises(TimeoutError):
            await server.wait_for(lambda: server.workers, timeout=0.01)


async def test_the_log_has_what_an_operator_asks_for_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="livekit_agent")
    async with serving() as server:
        worker = await worker_of(server, agent_name="evil\nagent")
        server.create_dispatch("room", "evil\nagent", metadata="private metadata")
        assignment = await worker.take_job()
        await worker.report(assignment.job.id, "FAILED", f"leaked {assignment.token}\nnext line")
        await server.wait_for(lambda: server.jobs[assignment.job.id].phase is JobPhase.ENDED, timeout=5)
    lines = [record.getMessage() for record in caplog.records if record.name == "livekit_agent.dispatch"]
    assert any(line.startswith(f"job ended: {assignment.job.id}, FAILED") for line in lines)
    assert any(line.startswith(f"worker registered: {worker.id}") for line in lines)
    everything = "\n".join([*lines, repr(server), repr(server.jobs), repr(server.workers)])
    for secret in (SECRET, assignment.token, "private metadata"):
        assert secret not in everything
    assert not any("\n" in line for line in lines)


# ------------------------------------------------------------------------------------------------------------- rooms


async def test_an_agent_joins_with_its_token_and_leaving_early_is_a_failure() -> None:
    async with serving() as server:
        worker = await worker_of(server, agent_name="a")
        server.create_dispatch("room", "a")
        assignment = await worker.take_job()
        room = await server.rooms.connect(server.url, assignment.token)
        assert room.local_participant.identity == f"agent-{assignment.job.id}"
        await room.disconnect()
        assert (await worker.hear("termination")).job_id == assignment.job.id
        job = server.jobs[assignment.job.id]
        assert (job.status, job.error) == (3, "agent worker left the room")


async def test_an_agent_that_reported_first_may_leave() -> None:
    async with serving() as server:
        worker = await worker_of(server, agent_name="a")
        server.create_dispatch("room", "a")
        assignment = await worker.take_job()
        room = await server.rooms.connect(server.url, assignment.token)
        await worker.report(assignment.job.id, "SUCCESS")
        job = server.jobs[assignment.job.id]
        await server.wait_for(lambda: job.phase is JobPhase.ENDED, timeout=5)
        await room.disconnect()
        await anyio.wait_all_tasks_blocked()
        assert job.status == 2
        assert not worker.wire.heard


@pytest.mark.virtual
async def test_an_agent_that_stays_after_its_dispatch_was_deleted_is_removed_after_three_seconds() -> None:
    async with serving() as server:
        worker = await worker_of(server, agent_name="a")
        dispatch = server.create_dispatch("room", "a")
        assignment = await worker.take_job()
        room = await server.rooms.connect(server.url, assignment.token)
        start = anyio.current_time()
        assert server.delete_dispatch("room", dispatch.id) is dispatch
        assert (await worker.hear("termination")).job_id == assignment.job.id
        left = await room.wait_closed()
        assert anyio.current_time() - start == pytest.approx(3.0, abs=1e-6)
        assert left.reason == 4
        assert server.jobs[assignment.job.id].status == 2


async def test_people_and_their_tracks_start_jobs() -> None:
    from livekit_agent.rooms import AudioSource

    async with serving() as server:
        joins = await worker_of(server, type="JT_PARTICIPANT")
        publishes = await worker_of(server, type="JT_PUBLISHER")
        async with server.rooms.join("room", "alice") as alice:
            assert (await joins.hear("availability")).job.participant.identity == "alice"
            source = AudioSource()
            await alice.local_participant.publish_audio(source, name="voice")
            job = (await publishes.hear("availability")).job
            assert job.participant.identity == "alice"
            assert [track.name for track in job.participant.tracks] == ["voice"]
            assert job.room.num_publishers == 1


async def test_a_deleted_room_ends_the_jobs_of_the_agents_in_it() -> None:
    async with serving() as server:
        worker = await worker_of(server, agent_name="a")
        server.create_dispatch("room", "a")
        assignment = await worker.take_job()
        room = await server.rooms.connect(server.url, assignment.token)
        server.rooms.delete_room("room")
        assert (await room.wait_closed()).reason == 5
        assert (await worker.hear("termination")).job_id == assignment.job.id
        assert server.jobs[assignment.job.id].error == "agent worker left the room"


@pytest.mark.virtual
async def test_a_room_that_stays_empty_closes_and_its_dispatches_with_it() -> None:
    async with serving() as server:
        server.create_dispatch("room", "a")
        await anyio.sleep(299)
        assert server.rooms.list_rooms()
        await anyio.sleep(2)
        assert not server.rooms.list_rooms()
        assert server.delete_dispatch("room", "AD_x") is None


async def test_the_room_config_of_the_token_that_creates_a_room_names_its_agents() -> None:
    config = {"agents": [{"agentName": "a", "metadata": "m"}], "emptyTimeout": 7, "metadata": "rm", "later": 1}
    async with serving() as server:
        named, nameless = await worker_of(server, agent_name="a"), await worker_of(server)

        def token(room: str) -> str:
            video = {"roomJoin": True, "room": room}
            return mint_token(KEY, SECRET, wall=time.time(), video=video, identity="alice", room_config=config)

        room = await server.rooms.connect(server.url, token("new"))
        assert room.metadata == "rm"
        job = (await named.hear("availability")).job
        assert (job.room.name, job.metadata, job.room.empty_timeout) == ("new", "m", 7)

        server.create_dispatch("live", "other")
        assert (await nameless.hear("availability")).job.room.name == "live"
        await server.rooms.connect(server.url, token("live"))  # too late: the room is live
        await anyio.wait_all_tasks_blocked()
        assert [job.room for job in server.jobs.values()] == ["new", "live"]


async def test_rooms_that_are_there_before_the_server_are_served() -> None:
    async with MemoryRooms({KEY: SECRET}) as rooms, rooms.join("old", "alice"):
        async with DispatchServer(port=None, rooms=rooms) as server:
            worker = await worker_of(server, type="JT_PARTICIPANT", agent_name="a")
            server.create_dispatch("old", "a")
            assert (await worker.hear("availability")).job.participant.identity == "alice"
        rooms.create_room("after")  # nobody listens any more; nothing breaks


# ----------------------------------------------------------------------------------------- abrupt ends and go_away


async def test_a_disconnected_worker_hears_an_end_without_a_close() -> None:
    async with serving() as server:
        worker = await worker_of(server)
        assert server.disconnect_worker(worker.id)
        await worker.hear_the_end()
        assert worker.wire.close_code is None
        assert not server.disconnect_worker(worker.id)
        again = await worker_of(server)
        assert again.id != worker.id


async def test_go_away_is_said() -> None:
    async with serving() as server:
        worker = await worker_of(server)
        assert server.go_away(worker.id, "moving house")
        assert (await worker.hear("go_away")).reason == "moving house"
        assert not server.go_away("AW_unknown")


async def test_a_frame_behind_the_request_is_answered_by_nothing() -> None:
    """The real server's WebSocket stack refuses clients that do not wait for the 101."""
    from dispatch_world import Wire

    from livekit_agent.protocol import worker_token

    async with serving() as server:
        stream = await server.memory_connector()(None)
        wire = Wire()
        head = wire.upgrade("/agent", worker_token(KEY, SECRET, wall=time.time()))
        await stream.send(head + b"\x82\x82\x00\x00\x00\x00\x0a\x00")
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


# ------------------------------------------------------------------------------------------------ stalling clients


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("sent", "seconds", "answer"),
    [
        (b"", 10, b""),
        (b"GET / HT", 10, b""),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe", 30, b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 60, b"HTTP/1.1 200"),
    ],
    ids=["silence", "half a head", "half a body", "idle after an answer"],
)
async def test_a_client_that_stalls_is_let_go(sent: bytes, seconds: float, answer: bytes) -> None:
    async with serving() as server:
        stream = await server.memory_connector()(None)
        start = anyio.current_time()
        if sent:
            await stream.send(sent)
        received = b""
        with pytest.raises(anyio.EndOfStream):
            while True:
                received += await stream.receive()
        assert anyio.current_time() - start == pytest.approx(seconds, abs=0.01)
        assert received.startswith(answer)
        assert answer or not received


@pytest.mark.virtual
async def test_a_head_dripped_byte_by_byte_gets_no_more_time() -> None:
    async with serving() as server:
        stream = await server.memory_connector()(None)
        start = anyio.current_time()
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                await stream.send(b"x")
                await anyio.sleep(1)
        assert anyio.current_time() - start <= 13


@pytest.mark.virtual
async def test_a_worker_that_does_not_register_is_dropped_after_ten_seconds() -> None:
    from dispatch_world import Wire

    from livekit_agent.protocol import worker_token

    async with serving() as server:
        stream = await server.memory_connector()(None)
        wire = Wire()
        start = anyio.current_time()
        await stream.send(wire.upgrade("/agent", worker_token(KEY, SECRET, wall=time.time())))
        worker = StreamWorker(stream)
        worker.wire = wire
        await worker.hear_the_end()
        assert wire.status_code == 101
        assert wire.close_code is None
        assert anyio.current_time() - start == pytest.approx(10.0, abs=0.01)


@pytest.mark.virtual
async def test_a_worker_that_stops_reading_is_dropped_and_its_siblings_go_on() -> None:
    async with serving() as server:
        deaf = await worker_of(server, agent_name="deaf")
        other = await worker_of(server, agent_name="other")
        for _ in range(3):
            server.create_dispatch("room", "deaf", metadata="x" * 60_000)
        server.create_dispatch("room", "other")
        assert await other.take_job()
        await anyio.sleep(10.1)
        assert list(server.workers) == [other.id]
        del deaf


async def test_an_outbox_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SERVER_OUTBOX_BYTES_MAX >= 16 * 1024 * 1024
    monkeypatch.setattr("livekit_agent.dispatch._server.SERVER_OUTBOX_BYTES_MAX", 200_000)
    async with serving() as server:
        deaf = await worker_of(server, agent_name="deaf")
        for _ in range(10):
            server.create_dispatch("room", "deaf", metadata="x" * 60_000)
        await server.wait_for(lambda: not server.workers, timeout=5)
        del deaf


@pytest.mark.filterwarnings("ignore:coroutine '_serve_one.<locals>.begin' was never awaited:RuntimeWarning")
def test_a_connection_whose_task_never_began_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on asyncio is torn down between accepting it and its task's first step."""
    client, accepted = socket.socket(), []

    async def torn_down() -> None:
        loop, kind = asyncio.get_running_loop(), asyncio_backend.TCPSocketListener
        accept = kind.accept

        async def note(listener: Any) -> Any:
            accepted.append(await accept(listener))
            # As asyncio.run does with every task that is left.
            loop.call_soon(lambda: [task.cancel() for task in asyncio.all_tasks()])
            return accepted[-1]

        monkeypatch.setattr(kind, "accept", note)
        async with DispatchServer() as server:
            client.connect(("127.0.0.1", server.port))
            await anyio.sleep(5)

    with client:
        with suppress(asyncio.CancelledError):
            anyio.run(torn_down, backend="asyncio")
        assert len(accepted) == 1
        client.settimeout(5)
        assert client.recv(1) == b"", "closed, though it is still referred to"
    gc.collect()  # what was never awaited says so here, and not in the next test


async def test_a_process_without_descriptors_accepts_nobody_for_a_while_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as one:
        listener = type(one.listeners[0])
    accept = listener.accept
    on_trio = anyio.BrokenResourceError()
    on_trio.__cause__ = OSError(errno.ENFILE, "Too many open files in system")
    faults = [OSError(errno.EMFILE, "Too many open files"), on_trio, OSError(errno.ECONNABORTED, "gone before")]

    async def failing(self: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        if faults:
            raise faults.pop(0)
        return await accept(self)

    monkeypatch.setattr(listener, "accept", failing)
    async with DispatchServer(api_key=KEY, api_secret=SECRET) as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port or 0) as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            with anyio.fail_after(10):
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")
    assert faults == []
    assert caplog.text.count("no connection can be accepted now") == 1


async def test_a_listener_that_fails_otherwise_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as one:
        listener = type(one.listeners[0])

    async def failing(self: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(listener, "accept", failing)
    with pytest.raises(ExceptionGroup):
        async with DispatchServer(api_key=KEY, api_secret=SECRET):
            await anyio.sleep(10)


async def test_beyond_its_bound_connections_are_closed_at_once() -> None:
    async with serving(max_connections=2) as server:
        connect = server.memory_connector()
        one, two = await connect(None), await connect(None)
        await anyio.wait_all_tasks_blocked()
        three = await connect(None)
        with pytest.raises(anyio.EndOfStream):
            await three.receive()
        await one.aclose()
        await anyio.wait_all_tasks_blocked()
        four = await connect(None)
        await four.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await four.receive()).startswith(b"HTTP/1.1 200")
        await two.aclose()


async def test_a_stranger_may_not_send_much(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        stream = await server.memory_connector()(None)
        head = b"POST /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        await stream.send(head + b"Content-Length: 100000\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 413")


async def test_garbage_ends_its_own_connection_only() -> None:
    async with serving() as server:
        worker = await worker_of(server, agent_name="a")
        for garbage in (b"\x00" * 1000, b"\x16\x03\x01hello\r\n\r\n", b"GET /agent HTTP/1.1\r\n\r\n"):
            stream = await server.memory_connector()(None)
            await stream.send(garbage)
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                while True:
                    await stream.receive()
        server.create_dispatch("room", "a")
        assert await worker.take_job()


# ------------------------------------------------------------------------------------------------------------- time


@pytest.mark.virtual
async def test_a_day_of_idleness_costs_a_ping_each_ten_seconds_and_nothing_else() -> None:
    async with serving() as server:
        worker = await worker_of(server)
        wakes = 0
        handle = server._core.handle_timeout

        def counted(now: float, wall: float) -> None:
            nonlocal wakes
            wakes += 1
            handle(now, wall)

        server._core.handle_timeout = counted  # type: ignore[method-assign]
        with anyio.move_on_after(3600):
            await worker.hear_the_end()
        assert worker.wire.pings in (359, 360)
        assert wakes <= worker.wire.pings + 2


async def test_a_hundred_dispatches_at_once_all_run() -> None:
    async with serving() as server:
        worker = await worker_of(server, agent_name="a")
        for number in range(100):
            server.create_dispatch(f"r{number}", "a")
        taken: set[str] = set()
        while len(taken) < 100:
            while not worker.wire.heard:
                worker.wire.receive(await worker.stream.receive())
            message = worker.wire.heard.pop(0)
            if message.WhichOneof("message") == "availability":
                from dispatch_world import accepting

                await worker.say(availability=accepting(message.availability.job.id))
            else:
                taken.add(message.assignment.job.id)
        assert len(taken) == 100
        assert all(job.phase is JobPhase.RUNNING for job in server.jobs.values())


def test_every_event_of_the_server_is_frozen() -> None:
    for kind in DispatchEvent.__subclasses__():
        assert kind.__dataclass_params__.frozen, kind  # type: ignore[attr-defined]


async def test_a_job_offered_after_a_track_was_muted_says_so() -> None:
    seen: list[Job] = []

    async def request(job: Job) -> bool:
        seen.append(job)
        return False

    async with DispatchServer() as server:
        handler = SimpleUniversalHandler(job_request=request)
        options = WorkerOptions(agent_name="a", job_type=JobType.PARTICIPANT)
        worker = UniversalWorker(server.url, server.api_key, server.api_secret, handler, options, rooms=server.rooms)
        async with worker, server.rooms.join("r", "ada") as ada:
            source = AudioSource(sample_rate=48_000, num_channels=1)
            publication = await ada.local_participant.publish_audio(source, name="microphone")
            assert server.rooms.mute_track("r", "ada", publication.sid)
            server.create_dispatch("r", "a")
            await server.wait_for(lambda: seen, 10)
    (track,) = seen[0].raw.participant.tracks
    assert (track.sid, track.muted) == (publication.sid, True)
