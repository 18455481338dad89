"""Starting workers under test, each with a port of its own, and what cases share.

A case that harms its worker, waits for long or stops it starts one of its own.  The others share a few: they take a
registered, idle worker from the lab and put it back when they have passed.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from subprocess import PIPE, STDOUT

import anyio
from anyio.abc import Process, SocketAttribute, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSStream

from ...dispatch._accept import serve_each
from ._link import Link
from ._verdicts import Broken

__all__ = ["Lab", "Worker", "poll"]

_OUTPUT_CHARS_MAX = 1_000_000
_START_SECONDS = 30.0
"""How long a worker may take from its start to its first connection; interpreters and machines differ."""

KEY, SECRET = "contractskey", "contracts-secret-contracts-secret"


async def poll(condition: Callable[[], object], within: float) -> bool:
    """Wait for something in another process to become true; whether it did."""
    with anyio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - nothing of ours could set an event
            await anyio.sleep(0.05)
    return bool(condition())


class Worker:
    """A process under test, and the listener it connects to."""

    def __init__(self, number: count[int], patience: float, port: int, tls: ssl.SSLContext | None) -> None:
        self.key, self.secret = KEY, SECRET
        self.patience = patience
        self.port = port
        self.process: Process | None = None
        self.links: list[Link] = []
        """Every connection so far."""
        self.output = ""
        """What it printed, stdout and stderr."""
        self.said_all = anyio.Event()
        """Set when all that it printed has been read."""
        self.tls = tls
        """The scripted server's side of TLS; None: plain."""
        self.tls_failures = 0
        self.raw = 0
        """TCP connections, failed TLS handshakes included."""
        self.began = time.monotonic()
        self._number = number
        self._taken = 0
        self._came = anyio.Event()

    def number(self) -> int:
        """A number used nowhere else."""
        return next(self._number)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.returncode is None

    def fate(self) -> str:
        """How the process ended, for a message; empty while it lives."""
        return "" if self.alive or self.process is None else f" and exited with {self.process.returncode}"

    def come(self, link: Link) -> None:
        """A connection was made."""
        self.links.append(link)
        self._came.set()
        self._came = anyio.Event()

    async def connection(self, within: float = _START_SECONDS) -> Link:
        """The next connection."""
        with anyio.move_on_after(within * self.patience):
            while len(self.links) <= self._taken and (self.alive or self.process is None):
                with anyio.move_on_after(0.2):  # looks whether the process still lives
                    await self._came.wait()
        if len(self.links) <= self._taken:
            raise Broken(f"no connection came within {within:g} s{self.fate()}")
        self._taken += 1
        return self.links[self._taken - 1]

    async def registered(self, within: float = _START_SECONDS) -> Link:
        """The next connection, taken as far as an ordinary registration."""
        link = await self.connection(within)
        await link.register()
        return link

    async def back(self, within: float = 15.0) -> Link:
        """The connection after one that was lost, registered."""
        try:
            return await self.registered(within)
        except Broken as exc:
            raise Broken(f"after the connection was lost: {exc}") from None

    def stop(self) -> None:
        """Ask it to stop, by SIGTERM."""
        if self.alive and self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    async def exited(self, within: float) -> int:
        """Wait for the process to end; its exit code."""
        assert self.process is not None
        with anyio.move_on_after(within * self.patience):
            return await self.process.wait()
        raise Broken(f"the worker did not exit within {within:g} s")

    def memory(self) -> int:
        """Resident bytes; 0 where that cannot be read."""
        assert self.process is not None
        with suppress(OSError), open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def kill(self) -> None:
        """End it and whatever it has started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Lab:
    """Where cases get their workers."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], patience: float, starts: int) -> None:
        self.patience = patience
        self._command = list(command)
        self._env = env
        self._number = count(1001)
        self._starting = anyio.Semaphore(starts)
        self._idle: list[tuple[Worker, Link]] = []
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """The shared workers live as long as this block."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def worker(
        self,
        *,
        path: str = "",
        scheme: str = "ws",
        host: str = "127.0.0.1",
        env: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        listening: bool = True,
        receive_buffer: int = 0,
    ) -> AsyncGenerator[Worker]:
        """A worker of the case's own, told to connect to ``scheme://host:PORT/path``."""
        async with anyio.create_task_group() as tasks:
            worker = await self._start(tasks, f"{scheme}://{host}", path, env or {}, tls, listening, receive_buffer)
            try:
                yield worker
            except Broken as exc:
                if not worker.alive:
                    # Its end may be noticed before its last words are read.
                    with anyio.move_on_after(1):
                        await worker.said_all.wait()
                exc.output = worker.output
                raise
            finally:
                worker.kill()
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def idle(self) -> AsyncGenerator[tuple[Worker, Link]]:
        """A registered worker, shared with other cases: it must be left as it was found."""
        assert self._tasks is not None
        found: tuple[Worker, Link] | None = None
        while found is None and self._idle:
            worker, link = self._idle.pop()
            if worker.alive and not link.ended:
                found = worker, link
        if found is None:
            worker = await self._start(self._tasks, "ws://127.0.0.1", "", {}, None, True, 0)
            found = worker, await worker.registered()
        try:
            yield found
        except Broken as exc:
            exc.output = found[0].output
            raise
        # Reached only by a case that passed; another one's worker is not asked again.
        self._idle.append(found)

    async def _start(
        self,
        tasks: TaskGroup,
        base: str,
        path: str,
        env: Mapping[str, str],
        tls: ssl.SSLContext | None,
        listening: bool,
        receive_buffer: int,
    ) -> Worker:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        if receive_buffer:
            raw = listener.listeners[0].extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610
        worker = Worker(self._number, self.patience, port, tls)
        if listening:
            tasks.start_soon(self._listen, worker, listener)
        else:
            await listener.aclose()
        environment = {**os.environ, **self._env, **env}
        environment |= {"LIVEKIT_URL": f"{base}:{port}{path}", "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
        # A starting interpreter takes a whole core: more of them at once than there are cores would make cases that
        # look at seconds wait for each other.
        await self._starting.acquire()
        try:
            worker.process = await anyio.open_process(
                self._command, stdout=PIPE, stderr=STDOUT, env=environment, start_new_session=True
            )
            tasks.start_soon(self._read_output, worker)
            if listening:
                await poll(lambda: worker.raw or not worker.alive, _START_SECONDS * self.patience)
            else:
                await anyio.sleep(2.0)
        finally:
            self._starting.release()
        return worker

    async def listen(self, worker: Worker) -> None:
        """Listen where nobody did until now; runs until cancelled."""
        await self._listen(worker, await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=worker.port))

    async def _listen(self, worker: Worker, listener: MultiListener[SocketStream]) -> None:
        async def converse(stream: SocketStream) -> None:
            worker.raw += 1
            await self._converse(worker, stream)

        async with listener:
            await serve_each(listener, converse)

    async def _converse(self, worker: Worker, stream: SocketStream) -> None:
        sni: list[str] = []
        if worker.tls is None:
            link = Link(stream, worker)
        else:
            context = worker.tls
            context.sni_callback = lambda _, name, __: sni.append(str(name))
            try:
                wrapped = await TLSStream.wrap(stream, server_side=True, ssl_context=context, standard_compatible=False)
            except BaseException as exc:  # a cancellation too: nobody else closes the stream
                with anyio.move_on_after(1, shield=True):  # never waits for the peer
                    await anyio.aclose_forcefully(stream)
                if isinstance(exc, ssl.SSLError | anyio.EndOfStream | anyio.BrokenResourceError | OSError):
                    worker.tls_failures += 1
                    return
                raise
            link = Link(wrapped, worker, sni[0] if sni else "")
        worker.come(link)
        await link.serve()

    async def _read_output(self, worker: Worker) -> None:
        assert worker.process is not None
        assert worker.process.stdout is not None
        try:
            async for data in worker.process.stdout:
                worker.output = (worker.output + data.decode("utf-8", "replace"))[-_OUTPUT_CHARS_MAX:]
            worker.said_all.set()
            await worker.process.wait()
        finally:
            worker.kill()
            with anyio.move_on_after(2, shield=True):  # reaps a process that was just killed
                await worker.process.aclose()
