"""The SDK's worker as the benchmarks run it: a room that costs nothing, unless the room is what is measured."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from livekit_agent import BaseHandler, JobContext, UniversalWorker, WorkerOptions

KEY = "devkey"
SECRET = "secretsecretsecretsecretsecret32"


class NoRoom:
    """Stands for a room where only the way from the wire to the handler is measured: joining takes no time."""

    __slots__ = ()
    name = sid = metadata = ""
    disconnect_reason: int | None = None

    def tell_end(self, listener: object) -> None:
        """It never ends by itself."""

    def tell_connection(self, listener: object) -> None:
        """It has none that could be lost."""

    async def disconnect(self, reason: int = 0) -> None:
        """There is nothing to leave."""


class NoRooms:
    """A connector that gives :class:`NoRoom` at once."""

    async def connect(self, url: str, token: str, *, timeout: float = 0, **options: Any) -> Any:
        return NoRoom()


class Started(BaseHandler):
    """Calls ``started(job_id, moment)`` as its first act, then ``body``."""

    def __init__(
        self,
        started: Callable[[str, float], object],
        body: Callable[[JobContext], Awaitable[object]] | None = None,
        offered: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._started = started
        self._body = body
        self._offered = offered

    async def on_job_request(self, job: Any) -> bool:
        self._offered(job.id)
        return True

    async def on_job_assigned(self, ctx: JobContext) -> None:
        moment = time.monotonic()
        self._started(ctx.job.id, moment)
        if self._body is not None:
            await self._body(ctx)


def make_worker(url: str, handler: Any, *, name: str = "", rooms: Any = None, connector: Any = None) -> UniversalWorker:
    """A worker without a limit."""
    options = WorkerOptions(agent_name=name, max_jobs=None, shutdown_timeout=0)
    return UniversalWorker(url, KEY, SECRET, handler, options, rooms=rooms or NoRooms(), connector=connector)


class Tap(anyio.abc.ByteStream):
    """A stream that remembers when it last received something: the moment an offer is in the process."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self.received_at = 0.0

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self.received_at = time.monotonic()
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def tapped(host: str, port: int) -> AsyncIterator[Tap]:
    """A TCP connection with a tap."""
    async with await anyio.connect_tcp(host, port) as stream:
        yield Tap(stream)
