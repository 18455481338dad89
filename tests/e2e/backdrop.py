"""Two servers behind one face: the embedded dispatch server with memory rooms, and a real livekit-server.

A scenario is written once against :class:`Backdrop` and must end alike on both; where they differ, the real one is
right. Everything goes through the SDK's own clients (``livekit_agent.api``, ``livekit_agent.rooms``); what the
server thinks of a job's end comes from the embedded server's records and from the real one's log.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import anyio.abc
import pytest
from realserver import KEY, SECRET, RealServer, free_port

from livekit_agent import JobStatus, UniversalWorker, WorkerOptions
from livekit_agent.api import LiveKitAPI
from livekit_agent.dispatch import DispatchServer
from livekit_agent.protocol import mint_token
from livekit_agent.rooms import MemoryRooms, NativeRooms, Room


def unique(stem: str) -> str:
    """A name of its own: rooms and agents of one server must not meet."""
    return f"{stem}-{secrets.token_hex(4)}"


class Backdrop(Protocol):
    """What a scenario may ask of a server."""

    url: str
    http_url: str
    rooms: Any
    real: bool

    def join(self, room: str, identity: str) -> AbstractAsyncContextManager[Room]:
        """A participant in ``room``, there until the block ends."""
        ...

    async def job_end(self, job_id: str) -> tuple[JobStatus, str]:
        """Status and error of the job's end as the server knows them; waits for it."""
        ...

    async def kill(self) -> None:
        """The server is gone at once; its sockets are reset."""
        ...

    async def restart(self) -> None:
        """The server is back on the same port, with an empty memory."""
        ...


class _Common:
    """What both do through the HTTP services."""

    url: str
    http_url: str
    rooms: Any
    real: bool
    key = KEY
    secret = SECRET

    def api(self) -> LiveKitAPI:
        return LiveKitAPI(self.http_url, KEY, SECRET, allow_plaintext=True)

    def worker(self, handler: Any, *, secret: str = SECRET, **options: Any) -> UniversalWorker:
        return UniversalWorker(self.url, KEY, secret, handler, WorkerOptions(**options), rooms=self.rooms)

    async def create_room(self, name: str, *agents: str) -> None:
        """With ``agents``, the room has exactly those dispatches; without, it has the nameless one."""
        async with self.api() as api:
            await api.rooms.create(name, agents=agents)

    async def delete_room(self, name: str) -> None:
        async with self.api() as api:
            await api.rooms.delete(name)

    async def dispatch(self, room: str, agent_name: str, metadata: str = "") -> str:
        async with self.api() as api:
            return str((await api.dispatch.create(room, agent_name, metadata=metadata)).id)

    async def delete_dispatch(self, room: str, dispatch_id: str) -> None:
        async with self.api() as api:
            await api.dispatch.delete(room, dispatch_id)

    async def recorded(self, room: str, job_id: str) -> None:
        """The server has linked job, dispatch and participant.

        The real one writes a job down up to 5 s after it launched it (the window of a cold cache); before that it
        neither terminates it with its dispatch nor notices its participant leaving.
        """
        async with self.api() as api:
            with anyio.fail_after(30):
                while True:
                    for dispatch in await api.dispatch.list(room):
                        if any(job.id == job_id for job in dispatch.jobs):
                            return
                    await anyio.sleep(0.05)

    async def identities(self, room: str) -> list[str]:
        async with self.api() as api:
            return sorted(participant.identity for participant in await api.rooms.participants(room))

    async def until_identities(self, room: str, *expected: str) -> None:
        """Wait until exactly these are in the room."""
        last: list[str] = []
        with anyio.move_on_after(30):
            while (last := await self.identities(room)) != sorted(expected):  # noqa: ASYNC110 - a server's state
                await anyio.sleep(0.02)
            return
        raise AssertionError(f"expected {sorted(expected)} in the room, found {last}")

    async def remove_participant(self, room: str, identity: str) -> None:
        async with self.api() as api:
            await api.rooms.remove_participant(room, identity)

    def participant_token(self, room: str, identity: str) -> str:
        import time

        grants: Mapping[str, object] = {"roomJoin": True, "room": room}
        return mint_token(KEY, SECRET, wall=time.time(), video=grants, identity=identity)


class EmbeddedBackdrop(_Common):
    """``DispatchServer`` on a real socket, in this process, wired to memory rooms that outlive it as native ones
    do."""

    real = False

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"ws://127.0.0.1:{self._port}"
        self.http_url = f"http://127.0.0.1:{self._port}"
        self._stack = AsyncExitStack()
        self._group: anyio.abc.TaskGroup
        self._life: anyio.CancelScope | None = None
        self._gone = anyio.Event()
        self.server: DispatchServer

    async def __aenter__(self) -> Self:
        self.rooms = await self._stack.enter_async_context(MemoryRooms({KEY: SECRET}))
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        await self.restart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._life is not None:
            self._life.cancel()
        return await self._stack.__aexit__(kind, error, trace)

    async def _live(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            with anyio.CancelScope() as self._life:
                async with DispatchServer(
                    port=self._port, api_key=KEY, api_secret=SECRET, rooms=self.rooms
                ) as self.server:
                    task_status.started()
                    await anyio.sleep_forever()
        finally:
            self._gone.set()

    async def kill(self) -> None:
        assert self._life is not None
        self._life.cancel()
        await self._gone.wait()

    async def restart(self) -> None:
        self._gone = anyio.Event()
        await self._group.start(self._live)

    @asynccontextmanager
    async def join(self, room: str, identity: str) -> AsyncIterator[Room]:
        async with self.rooms.join(room, identity) as joined:
            yield joined

    async def job_end(self, job_id: str) -> tuple[JobStatus, str]:
        def over() -> bool:
            record = self.server.jobs.get(job_id)
            return record is not None and JobStatus(record.status).terminal

        with anyio.fail_after(15):
            await self.server.wait_for(over)
        record = self.server.jobs[job_id]
        return JobStatus(record.status), record.error

    async def registered(self, worker: UniversalWorker) -> None:
        """The worker is in the pool: nothing to wait for."""


class RealBackdrop(_Common):
    """A livekit-server process and the native rooms."""

    real = True

    def __init__(self, server: RealServer) -> None:
        self.server = server
        self.url = server.url
        self.http_url = server.http_url
        self.rooms = NativeRooms()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def kill(self) -> None:
        self.server.kill()

    async def restart(self) -> None:
        self.server.start()

    @asynccontextmanager
    async def join(self, room: str, identity: str) -> AsyncIterator[Room]:
        joined = await self.rooms.connect(self.url, self.participant_token(room, identity))
        try:
            yield joined
        finally:
            with anyio.move_on_after(5, shield=True):  # a participant left behind would reconnect for ever
                await joined.disconnect()

    async def job_end(self, job_id: str) -> tuple[JobStatus, str]:
        status, error = await self.server.job_ended(job_id)
        return JobStatus[status.removeprefix("JS_")], error

    async def registered(self, worker: UniversalWorker) -> None:
        """The worker is in the pool; the response to its registration is written a moment before."""
        await self.server.wait_log("worker registered", lambda line: line.get("workerID") == worker.worker_id)
        # The server then tells its dispatcher, which had written down that there is nobody (pkg/agent/client.go of
        # livekit-server: "invalidate cache"), and says no word about it: nothing but a while can be waited for.
        await anyio.sleep(0.2)


def both_servers(fixture_of_the_real_one: str) -> Any:
    """A fixture: the embedded server, then the real one that the named fixture starts."""

    @pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real_server)])
    def backdrop(request: pytest.FixtureRequest) -> EmbeddedBackdrop | RealBackdrop:
        if request.param == "embedded":
            return EmbeddedBackdrop()
        return RealBackdrop(request.getfixturevalue(fixture_of_the_real_one))

    return backdrop
