"""``run --health``: what is answered to whom, and that nobody who asks can harm the worker."""

from __future__ import annotations

import json
from collections.abc import Callable

import anyio
import pytest

from livekit_agent import JobContext, SimpleUniversalHandler, UniversalWorker, WorkerOptions, __version__
from livekit_agent.cli._exit import ListenError, exit_code
from livekit_agent.cli._health import health_checks, watched
from livekit_agent.dispatch import DispatchServer

from .conftest import Running


def request(path: str = "/", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: agent\r\n\r\n".encode()


async def ask(port: int, data: bytes) -> tuple[str, str]:
    """What is answered to these bytes: status and text."""
    answer = b""
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(data)
            try:
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass  # closed, with or without what was not read
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode().removeprefix("HTTP/1.1 "), body.decode().rstrip("\n")


def worker_of(server: DispatchServer, handler: SimpleUniversalHandler | None = None) -> UniversalWorker:
    return UniversalWorker(
        server.url, server.api_key, server.api_secret, handler or SimpleUniversalHandler(),
        WorkerOptions(agent_name="echo", max_jobs=3), rooms=server.rooms,
    )  # fmt: skip


async def test_a_worker_is_ready_from_its_registration_to_its_drain_and_alive_before_and_after() -> None:
    running = anyio.Event()

    async def assigned(ctx: JobContext) -> None:
        running.set()
        await ctx.shutting_down.wait()
        told.append(await ask(port, request("/ready")))

    told: list[tuple[str, str]] = []
    async with DispatchServer() as server:
        worker = worker_of(server, SimpleUniversalHandler(job_assigned=assigned))
        async with watched(worker, "127.0.0.1", 0)() as same, health_checks(worker, "127.0.0.1", 0) as port:
            assert same is worker
            assert await ask(port, request("/")) == ("200 OK", "disconnected")
            assert await ask(port, request("/ready")) == ("503 Service Unavailable", "disconnected")
            with anyio.fail_after(10):
                async with worker:
                    assert await ask(port, request("/ready")) == ("200 OK", "available")
                    server.create_dispatch("lobby", "echo")
                    await running.wait()
                    assert await ask(port, request("/ready")) == ("200 OK", "busy")
                    assert await ask(port, request("/")) == ("200 OK", "busy")
            assert told == [("503 Service Unavailable", "draining")]
            assert await ask(port, request("/ready")) == ("503 Service Unavailable", "closed")


async def test_its_figures_are_json() -> None:
    async with DispatchServer() as server, worker_of(server) as worker:
        async with health_checks(worker, "", 0) as port:
            status, text = await ask(port, request("/worker?pretty"))
        figures = json.loads(text)
        assert status == "200 OK"
        assert figures["worker_id"] == worker.worker_id
        expected = {
            "status": "available", "agent_name": "echo", "job_type": "room", "connected": True, "active_jobs": 0,
            "max_jobs": 3, "sdk_version": __version__, "protocol_version": 1,
        }  # fmt: skip
        assert {name: figures[name] for name in expected} == expected
        assert server.api_secret not in text


def idle_worker() -> UniversalWorker:
    return UniversalWorker("ws://localhost:1", "key", "secret", SimpleUniversalHandler())


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (request("/", "HEAD"), "200 OK", ""),
        (request("/", "POST"), "405 Method Not Allowed", "GET or HEAD"),
        (request("/metrics"), "404 Not Found", "there are /, /ready and /worker"),
        (b"\r\n\r\n", "405 Method Not Allowed", "GET or HEAD"),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 70_000, "", ""),
    ],
    ids=["head", "post", "another path", "no request", "too much"],
)
async def test_whatever_is_asked_is_answered_or_closed(data: bytes, status: str, text: str) -> None:
    async with health_checks(idle_worker(), "127.0.0.1", 0) as port:
        assert await ask(port, data) == (status, text)
        assert await ask(port, request("/")) == ("200 OK", "disconnected")


async def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit_agent.cli._health.HTTP_HEAD_TIMEOUT", 0.01)
    async with health_checks(idle_worker(), "127.0.0.1", 0) as port:
        assert await ask(port, b"GET / HT") == ("", "")


async def test_more_connections_than_the_bound_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit_agent.cli._health.HEALTH_CONNECTIONS_MAX", 1)
    async with health_checks(idle_worker(), "127.0.0.1", 0) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as first:
            assert await ask(port, request("/")) == ("", "")
            await first.send(request("/"))
            with anyio.fail_after(10):
                assert (await first.receive()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_port_that_is_taken_is_an_error_with_a_hint() -> None:
    async with health_checks(idle_worker(), "127.0.0.1", 0) as port:
        with pytest.raises(ListenError, match=f"health checks on 127.0.0.1, port {port}: ") as caught:
            async with health_checks(idle_worker(), "127.0.0.1", port):
                raise AssertionError("two listen on one port")
    assert "--health takes" in caught.value.hint
    assert exit_code(caught.value) == 69


async def test_the_command_answers_also_while_it_has_no_server(
    start: Callable[..., Running], write: Callable[[str, str], str]
) -> None:
    write("agent.py", "from livekit_agent import SimpleUniversalHandler\nhandler = SimpleUniversalHandler()\n")
    keys = {"LIVEKIT_URL": "ws://127.0.0.1:9", "LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "secret"}
    running = start("run", "agent:handler", "--health", "127.0.0.1:0", env=keys)
    line = running.wait_for("health checks are answered on port ")
    port = int(line.partition(" on port ")[2].partition(":")[0])
    assert await ask(port, request("/")) == ("200 OK", "disconnected")
    running.signal()
    assert running.wait() == 0
