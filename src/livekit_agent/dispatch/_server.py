"""The dispatch server on AnyIO: sockets, tasks and clocks around the pure parts.

Tasks::

    DispatchServer (a task group, cancelled when the block is left)
    ├─ timer                      sleeps until core.next_deadline()
    ├─ listener                   one per address; none with port=None
    └─ connection                 one per byte stream: the HTTP conversation, answered where it is read;
       └─ writer                  once it is a worker's: the only one that sends, from a bounded outbox

Every decision is made by a synchronous call into ``_core`` (or the rooms' ledger) followed by :meth:`_settle`, which
fills outboxes, hands out events and re-arms the timer before anything is awaited.  A connection that ends, breaks or
stalls ends alone.  Leaving the block drops every connection without a Close frame, as the real server's exit does.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup

from .. import __version__
from .._bounds import (
    CLOSE_TIMEOUT,
    HTTP_BODY_TIMEOUT,
    HTTP_HEAD_BYTES_MAX,
    HTTP_HEAD_TIMEOUT,
    HTTP_IDLE_TIMEOUT,
    READ_BYTES_MAX,
    SERVER_CONNECTIONS_MAX,
    SERVER_OUTBOX_BYTES_MAX,
)
from .._errors import ConfigError
from .._structlog import logger_of
from ..rooms import MemoryRooms
from ..rooms._remote_carrier import send
from ..rooms._remote_wire import URL
from ._accept import serve_each
from ._access import Refusal, authenticate, judge_upgrade, token_of
from ._core import DispatchCore, Link, Order
from ._events import (
    DispatchEvent,
    DispatchRecord,
    JobRecord,
    ParticipantRemovalDue,
    WorkerRecord,
)
from ._feed import Feed
from ._http import BodyAhead, Ended, Fault, HttpConversation, NeedBody, NeedHead, Request, Response, Upgrade
from ._journal import log_event
from ._memory import memory_pipe
from ._messages import create_room_request
from ._participants import serve_participant
from ._rooms import Desk, RoomBook
from ._routes import WORKER_PATH, answer, upgrade_grant
from ._services import services
from ._twirp import Twirp

if TYPE_CHECKING:
    from .._options import StructuredLogger
    from ._journal import Logger

__all__ = ["DispatchServer"]

E = TypeVar("E", bound=DispatchEvent)
T = TypeVar("T")

_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
_SECONDS: Mapping[str, float] = {"head": HTTP_HEAD_TIMEOUT, "idle": HTTP_IDLE_TIMEOUT, "body": HTTP_BODY_TIMEOUT}


class DispatchServer:
    """LiveKit's dispatch side in this process: ``async with DispatchServer() as server``.

    Binds loopback unless told otherwise; ``port=0`` takes a free one, ``port=None`` opens no socket at all (then
    workers come by :meth:`memory_connector`).  Without a key and a secret it makes its own.  ``rooms`` is where
    participants are; None makes rooms of its own.

    Error handling: entering raises OSError when the address cannot be bound.  Afterwards nothing that a client does
    raises here.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = 0,
        *,
        api_key: str | None = None,
        api_secret: str | None = None,
        rooms: MemoryRooms | None = None,
        target_load: float = 0.7,
        launch_delay: float = 0.0,
        max_connections: int = SERVER_CONNECTIONS_MAX,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
        logger: Logger | StructuredLogger | None = None,
    ) -> None:
        """``target_load``: at this load and above, a worker brings no jobs.  ``launch_delay``: seconds before
        offers.  ``logger``: as in :class:`WorkerOptions`."""
        self.host = host
        self.port = port
        self.api_key, self.api_secret = _credentials(api_key, api_secret, rooms)
        self._wall = wall_clock
        self._log = logger_of(logger, "livekit_agent.dispatch")
        self._max_connections = max_connections
        self._connections = 0
        keys = MappingProxyType({self.api_key: self.api_secret})
        self._keys = keys
        self._rng = rng if rng is not None else random.Random(secrets.randbits(128))
        self._own_rooms = rooms is None
        if rooms is None:
            rooms = MemoryRooms(keys, rng=random.Random(self._rng.getrandbits(64)), wall_clock=wall_clock)
        self.rooms = rooms
        self._core = DispatchCore(
            keys=keys,
            rng=self._rng,
            version=f"livekit-agent-sdk {__version__}",
            target_load=target_load,
            launch_delay=launch_delay,
            rooms_url=URL,
        )
        self._book = RoomBook(self.rooms, self._core, clock=self._now, settle=self._settle)
        self._desk = Desk(self._core, clock=self._now, settle=self._settle)
        self._twirp = Twirp(services(self._book, self._desk))
        self._pipes: dict[Link, _Pipe] = {}
        self._feeds: dict[Feed[Any], None] = {}
        self._pending: deque[DispatchEvent] = deque()
        self._timer_at = math.inf
        self._changed: anyio.Event | None = None
        """Somebody waits for something to happen."""
        self._tasks: TaskGroup | None = None
        self._exits = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<DispatchServer {self.url}: {len(self.workers)} workers, {len(self.jobs)} jobs>"

    # ------------------------------------------------------------------------------------------------- its life

    async def __aenter__(self) -> DispatchServer:
        self._timer_due = anyio.Event()
        async with AsyncExitStack() as stack:
            listener = None
            if self.port is not None:
                listener = await anyio.create_tcp_listener(local_host=self.host, local_port=self.port)
                stack.push_async_callback(listener.aclose)
                self.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - AnyIO's, not Django's
            if self._own_rooms:
                await stack.enter_async_context(self.rooms)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._tasks.cancel_scope.cancel)
            self._book.open()
            stack.callback(self._book.close)
            stack.callback(self._end_feeds)
            self._tasks.start_soon(self._run_timer)
            if listener is not None:
                self._tasks.start_soon(serve_each, listener, self.serve_stream)
                self._log.info("dispatch server listens on %s", self.url)
            self._exits = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._exits.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # Task groups wrap what the block raises; who wrote `async with DispatchServer()` did not ask for one.
            if error is not None and _only(group, error):
                return False
            raise
        finally:
            self._tasks = None

    def _end_feeds(self) -> None:
        for feed in list(self._feeds):
            feed.close()

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def url(self) -> str:
        """Where workers connect."""
        return f"ws://{self._authority}"

    @property
    def http_url(self) -> str:
        """Where API clients connect."""
        return f"http://{self._authority}"

    @property
    def _authority(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "localhost"}.get(self.host, self.host)  # noqa: S104 - compared
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port if self.port is not None else 7880}"

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """Registered workers by id."""
        return MappingProxyType(self._core.workers)

    @property
    def jobs(self) -> Mapping[str, JobRecord]:
        """Every job launched, by id, oldest first; the oldest that are over are forgotten at last."""
        return MappingProxyType(self._core.jobs)

    @overload
    def events(self) -> Feed[DispatchEvent]: ...
    @overload
    def events(self, *types: type[E]) -> Feed[E]: ...
    def events(self, *types: type[Any]) -> Feed[Any]:
        """Events from now on (synchronous: nothing that happens after this call is missed)."""
        feed: Feed[Any] = Feed(types or (DispatchEvent,), lambda feed: self._feeds.pop(feed, None))
        self._feeds[feed] = None
        return feed

    async def wait_for(self, condition: Callable[[], T], timeout: float = math.inf) -> T:
        """Wait until ``condition()`` is true, looking whenever something happened here, and return what it gave.

        To a worker, a dispatch, a job, a room or somebody in it; data and the like are nothing that happens here.

        Raises TimeoutError after ``timeout`` seconds.  Cancel-safe.
        """
        with anyio.fail_after(None if math.isinf(timeout) else timeout):
            await anyio.lowlevel.checkpoint()
            while not (result := condition()):
                self._changed = self._changed or anyio.Event()
                await self._changed.wait()
        return result

    # --------------------------------------------------------------------------------------------------- doing

    def create_dispatch(
        self,
        room: str,
        agent_name: str = "",
        *,
        metadata: str = "",
        deployment: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> DispatchRecord:
        """Dispatch an agent to a room, which is made if need be (with the implicit, nameless dispatch)."""
        self._book.create(create_room_request(room), ())
        order = Order(
            agent_name=agent_name, metadata=metadata, deployment=deployment, attributes=dict(attributes or {})
        )
        return self._desk.create(room, order)

    def delete_dispatch(self, room: str, dispatch_id: str) -> DispatchRecord | None:
        """Delete a dispatch and end its jobs.  None for an unknown id or room."""
        try:
            return self._desk.delete(room, dispatch_id)
        except KeyError:
            return None

    def disconnect_worker(self, worker_id: str) -> bool:
        """Drop a worker's connection as a crash would.  False if there is no such worker."""
        found = self._core.disconnect(worker_id, *self._now())
        self._settle()
        return found

    def go_away(self, worker_id: str, reason: str = "") -> bool:
        """Ask a worker to drain and connect anew.  False if there is no such worker."""
        found = self._core.go_away(worker_id, reason, *self._now())
        self._settle()
        return found

    def memory_connector(self) -> Callable[[object], Awaitable[ByteStream]]:
        """A worker's ``connector`` that reaches this server without a socket."""

        async def connect(endpoint: object) -> ByteStream:
            if self._tasks is None:
                raise ConnectionRefusedError("the dispatch server is not running")
            await anyio.lowlevel.checkpoint()
            client, server = memory_pipe()
            self._tasks.start_soon(self.serve_stream, server)
            return client

        return connect

    # --------------------------------------------------------------------------------------------- connections

    async def serve_stream(self, stream: ByteStream) -> None:
        """Serve one connection on any byte stream, to its end; closes the stream."""
        if self._connections >= self._max_connections:
            self._log.warning("connection refused: %d are open", self._connections)
            await anyio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            await self._converse(stream)
        except _BROKEN:
            pass  # the client left; there is nobody to tell
        finally:
            self._connections -= 1
            await anyio.aclose_forcefully(stream)

    async def _converse(self, stream: ByteStream) -> None:
        """HTTP, one request after the other, until it ends or turns out to be a worker."""
        http = HttpConversation()
        phase, deadline, first = "", math.inf, True
        while True:
            http.wall = self._wall()
            match step := http.step():
                case NeedHead():
                    waiting = "head" if step.begun or first else "idle"
                case BodyAhead():
                    self._bound_body(http, step.request)
                    continue
                case NeedBody():
                    waiting = "body"
                    await send(stream, step.send)
                case Upgrade():
                    if self._admits(step):
                        return await self._serve_upgraded(stream, step)
                    continue  # it comes again, as an ordinary request to be refused
                case Request():
                    await send(stream, http.respond(self._answer(step)))
                    if not http.keep_alive:
                        return await _linger(stream)
                    phase, first = "", False
                    continue
                case Fault():
                    await send(stream, step.data)
                    return await _linger(stream)
                case Ended():
                    return
            if waiting != phase:
                phase, deadline = waiting, anyio.current_time() + _SECONDS[waiting]
            data = await _receive(stream, deadline)
            if data is None:
                await send(stream, http.timed_out())
                return await _linger(stream)
            http.receive_data(data)

    def _admits(self, upgrade: Upgrade) -> bool:
        head = upgrade.request
        grant = upgrade_grant(head.path)
        verdict = judge_upgrade(head.method, head.headers, head.query, self._keys, wall=self._wall(), grant=grant)
        return not isinstance(verdict, Refusal)

    async def _serve_upgraded(self, stream: ByteStream, upgrade: Upgrade) -> None:
        head = upgrade.request
        if head.path == WORKER_PATH:
            return await self._serve_worker(stream, upgrade.data)
        why = await serve_participant(stream, upgrade.data, self.rooms, token_of(head.headers, head.query))
        self._log.debug("a participant's connection is over: %s", why)

    def _bound_body(self, http: HttpConversation, head: Request) -> None:
        """Who has no good token is going to be refused anyway, and may send little until then."""
        claims = authenticate(head.headers, head.query, self._keys, wall=self._wall())
        if claims is None or isinstance(claims, Refusal):
            http.body_limit = HTTP_HEAD_BYTES_MAX

    def _answer(self, request: Request) -> Response:
        return answer(request, self._twirp, self._keys, wall=self._wall())

    async def _serve_worker(self, stream: ByteStream, data: bytes) -> None:
        """A worker's connection: read here, written by the writer, decided by the core."""
        link = self._core.open(*self._now())
        pipe = self._pipes[link] = _Pipe(stream, link)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, pipe, tasks.cancel_scope)
                while True:
                    self._core.receive_data(link, data, *self._now())
                    self._settle()
                    data = await stream.receive(READ_BYTES_MAX)
        except* _BROKEN:
            pass  # heard below; an end of file is how most connections end
        finally:
            self._core.receive_eof(link, *self._now())
            self._settle()
            del self._pipes[link]

    async def _write(self, pipe: _Pipe, connection: anyio.CancelScope) -> None:
        """Send what is in the outbox until the connection is finished; then end its reader as well."""
        while True:
            if pipe.outbox:
                data = bytes(pipe.outbox)
                pipe.outbox.clear()
                await send(pipe.stream, data)
            elif pipe.link.finished:
                await _linger(pipe.stream, receive=False)
                connection.cancel()
                return
            else:
                await pipe.wait()

    # --------------------------------------------------------------------------------------------- the drain rule

    def _now(self) -> tuple[float, float]:
        return anyio.current_time(), self._wall()

    def _settle(self) -> None:
        """After any call into the core: bytes to the writers, events to the observers, the timer re-armed."""
        while True:
            touched = self._core.take_touched()
            for link in touched:
                self._fill(link)
            self._pending.extend(self._core.take_events())
            if not touched and not self._pending:
                break
            while self._pending:
                self._publish(self._pending.popleft())
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
        if self._core.next_deadline() < self._timer_at:
            self._timer_due.set()

    def _fill(self, link: Link) -> None:
        pipe = self._pipes.get(link)
        if pipe is None:
            return
        pipe.outbox += link.connection.data_to_send()
        if len(pipe.outbox) > SERVER_OUTBOX_BYTES_MAX and not link.finished:
            self._log.warning("a worker's connection is dropped: it does not read")
            self._core.drop(link, *self._now())
        if pipe.outbox or link.finished:
            pipe.wake()

    def _publish(self, event: DispatchEvent) -> None:
        log_event(self._log, event)
        for feed in list(self._feeds):
            feed.offer(event)
        if isinstance(event, ParticipantRemovalDue):
            self.rooms.remove_participant(event.room, event.identity)

    async def _run_timer(self) -> None:
        while True:
            self._timer_due = anyio.Event()
            self._timer_at = self._core.next_deadline()
            with anyio.CancelScope(deadline=self._timer_at):
                await self._timer_due.wait()
            self._core.handle_timeout(*self._now())
            self._settle()


def _credentials(api_key: str | None, api_secret: str | None, rooms: MemoryRooms | None) -> tuple[str, str]:
    """The server's key and secret: as given, else the rooms', else new ones.  Agents must be able to join the rooms."""
    if (api_key is None) != (api_secret is None):
        raise ConfigError("api_key and api_secret belong together", field="api_key", source="DispatchServer")
    accepted = rooms.keys if rooms is not None else None
    if api_key is None or api_secret is None:
        if accepted:
            return next(iter(accepted.items()))
        return "API" + secrets.token_hex(6), secrets.token_urlsafe(32)
    if accepted is not None and accepted.get(api_key) != api_secret:
        raise ConfigError(
            "the rooms do not accept the server's key, so no agent could join them",
            field="rooms",
            source="DispatchServer",
            hint="make both with the same key and secret",
        )
    return api_key, api_secret


class _Pipe:
    """The writing side of one worker's connection."""

    def __init__(self, stream: ByteStream, link: Link) -> None:
        self.stream = stream
        self.link = link
        self.outbox = bytearray()
        self._due = anyio.Event()

    def wake(self) -> None:
        self._due.set()

    async def wait(self) -> None:
        await self._due.wait()
        self._due = anyio.Event()


def _only(group: BaseExceptionGroup[BaseException], error: BaseException) -> bool:
    """Whether a group holds this one error and no other, however deep."""
    return all(
        inner is error or (isinstance(inner, BaseExceptionGroup) and _only(inner, error))  # pyright: ignore[reportUnknownArgumentType]
        for inner in group.exceptions
    )


async def _receive(stream: ByteStream, deadline: float) -> bytes | None:
    """The next bytes; empty at the end of the stream, None when the deadline has passed."""
    with anyio.CancelScope(deadline=deadline) as scope:
        try:
            return await stream.receive(READ_BYTES_MAX)
        except anyio.EndOfStream:
            return b""
    assert scope.cancelled_caught, "a scope is left early only by its deadline"
    return None


async def _linger(stream: ByteStream, *, receive: bool = True) -> None:
    """Say that no more will come and wait a little for the client to leave.

    Closing at once, with bytes of the client unread, would make the kernel reset the connection and could take the
    answer, still on its way, from the client.
    """
    with anyio.move_on_after(CLOSE_TIMEOUT):
        try:
            await stream.send_eof()
        except NotImplementedError:
            return  # TLS has no half-close: the caller closes the whole
        except OSError:
            # The client has reset the connection.  AnyIO's trio stream lets shutdown()'s ENOTCONN through as it is.
            return
        while receive:
            await stream.receive(READ_BYTES_MAX)
