"""How does the worker stay connected?  Connect, serve, back off, again.

The supervisor is a task; between two connections there is no session, and a job's reports wait in the book for the next
registration.  Whether to try again, and when, is the protocol's decision (``Lifecycle``): only ``OSError``,
``ConnectionLostError`` and ``RemoteProtocolError`` mean "reconnect", and a lost connection cancels no job.

A server that goes away asks for a connection elsewhere: this one is left once the jobs that were promised on it have
come.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from .. import __version__, events
from .._bounds import CONNECT_TIMEOUT
from .._errors import AgentError, AuthenticationError, ConnectionLostError, LocalProtocolError, printable
from .._options import WorkerOptions
from ..protocol import (
    ConnectionClosed,
    Event,
    GiveUp,
    GoAway,
    JobBook,
    Lifecycle,
    MessageSkipped,
    Registered,
    Registration,
    SignalConnection,
    Stage,
    WorkerConnection,
    worker_token,
)
from ._changes import Changes
from ._session import Session
from ._transport import Connector, Endpoint

if TYPE_CHECKING:
    from ..api import LiveKitAPI
    from ._jobs import JobScope

    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["Supervisor"]


class Supervisor:
    """A worker's connections, one after the other.

    :param prepare: called with each new core before anything is sent: the worker's load, and whether it drains.
    :param on_event: given the core's events, synchronously, inside the session's pump.
    :param jobs: the jobs whose tasks live, by id.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        api_key: str,
        api_secret: str,
        options: WorkerOptions,
        *,
        connector: Connector,
        rng: random.Random,
        wall_clock: Callable[[], float],
        book: JobBook,
        jobs: Mapping[str, JobScope],
        prepare: Callable[[WorkerConnection, float], None],
        on_event: Callable[[Event], None],
        publish: Callable[[events.WorkerEvent], None],
        changes: Changes,
        log: Logger,
    ) -> None:
        self.session: Session | None = None
        """The present connection; None between two."""
        self.connections = 0
        self.asked_to_leave = False
        """The server goes away: this connection is to be made anew, and takes no more jobs."""
        self.fatal: Exception | None = None
        """Why there will be no other connection."""
        self.task_status: TaskStatus[None] | None = None
        """Who waits for the first registration."""
        self._worker_id = ""
        self._endpoint = endpoint
        self._api_key = api_key
        self._api_secret = api_secret
        self._options = options
        self._connector = connector
        self._wall_clock = wall_clock
        self._lifecycle = Lifecycle(rng, max_failures=options.max_connect_failures)
        self._book = book
        self._jobs = jobs
        self._prepare = prepare
        self._on_event = on_event
        self._publish = publish
        self._changes = changes
        self._log = log

    @property
    def registered(self) -> bool:
        """Whether the present connection is."""
        return self.session is not None and self.session.core.stage is Stage.REGISTERED

    @property
    def worker_id(self) -> str:
        """The id of the present registration; empty while there is none."""
        return self._worker_id if self.registered else ""

    def api(self) -> LiveKitAPI:
        """A client of the server's HTTP API: the same server, key and way to it."""
        from ..api import LiveKitAPI  # httpx, which a worker without a wish for it does not load

        options = self._options
        return LiveKitAPI(
            self._endpoint.url, self._api_key, self._api_secret, ca_file=options.ca_file, proxy=options.proxy,
            allow_plaintext=options.allow_plaintext, wall_clock=self._wall_clock,
        )  # fmt: skip

    async def supervise(self) -> None:
        """Connect, serve, back off, again.  Ends only by giving up or being cancelled."""
        while True:
            error = await self._connect_once()
            now = anyio.current_time()
            verdict = self._lifecycle.lost(error, now, jobs_running=bool(self._jobs))
            if isinstance(verdict, GiveUp):
                self._give_up(verdict.error)
                return
            self._publish(events.ConnectionLost(error=error, retry_in=verdict.delay))
            hint = verdict.hint or (error.hint if isinstance(error, AgentError) else "")
            self._log.warning("%s; trying again in %.1f s%s", error, verdict.delay, f" ({hint})" if hint else "")
            if not (isinstance(error, AuthenticationError) and self._jobs):
                await anyio.sleep(verdict.delay)
                continue
            # The running jobs are the only reason to try on; when the last has ended, the refusal is final.
            with anyio.move_on_after(verdict.delay):
                await self._changes.until(lambda: not self._jobs)
                self._give_up(error)
                return

    def _give_up(self, error: Exception) -> None:
        self.fatal = error
        self._log.error("the worker gives up: %s", error)
        self._changes.notify()

    # ------------------------------------------------------------------------------------ one connection

    async def _connect_once(self) -> Exception:
        """One connection from dialling to its end; why it ended."""
        self.connections += 1
        self.asked_to_leave = False
        try:
            # Ours whatever the connector: a black-holed address must not hold the supervisor.
            with anyio.fail_after(CONNECT_TIMEOUT):
                stream = await self._connector(self._endpoint)
        except TimeoutError:
            return ConnectionLostError(
                f"no connection to {self._endpoint.authority} within {CONNECT_TIMEOUT:g} s", code="CONNECT_TIMEOUT"
            )
        except ConnectionLostError as exc:
            return exc
        except OSError as exc:
            return ConnectionLostError(f"cannot connect: {type(exc).__name__}")
        try:
            core = self._make_core()
        except LocalProtocolError:
            # A name or token that cannot be put on the wire: the caller's fault, raised on, but not with a socket open.
            await anyio.aclose_forcefully(stream)
            raise
        debug = self._log if self._options.websocket_debug else None
        self.session = Session(stream, core, self._on_event, debug=debug)
        try:
            closed = await self.session.run()
        finally:
            self.session = None
            for job in list(self._jobs.values()):
                if job.end.outcome is not None:
                    job.end.delivery_settled()  # the server has forgotten the job: nothing to wait for
        return closed.error or ConnectionLostError("the connection was closed", last_close_code=closed.code)

    def _make_core(self) -> WorkerConnection:
        now, wall = anyio.current_time(), self._wall_clock()
        core = SignalConnection.worker(
            host=self._endpoint.authority,
            target=self._endpoint.target,
            token=worker_token(self._api_key, self._api_secret, wall=wall),
            registration=self._registration(),
            book=self._book,
            now=now,
            wall=wall,
            serial=self.connections,
        )
        self._prepare(core, now)
        return core

    def _registration(self) -> Registration:
        options = self._options
        return Registration(
            job_type=int(options.job_type),
            agent_name=options.agent_name,
            namespace=options.namespace,
            deployment=options.deployment,
            version=__version__,
            permissions=options.permissions,
        )

    # ------------------------------------------------------------------------------------ its events

    def on_registered(self, event: Registered) -> None:
        """The server knows the worker."""
        reconnect = self._worker_id != ""
        self._worker_id = event.worker_id or "unnamed"
        self._lifecycle.registered(anyio.current_time())
        name, version = printable(event.worker_id), printable(event.server.version) or "?"
        self._log.info("registered as %s with livekit-server %s", name, version)
        if self._options.agent_name and not reconnect:
            self._log.info(
                "agent %r is named: only explicit dispatches reach it (livekit-agent dispatch create)",
                self._options.agent_name,
            )
        self._publish(
            events.Registered(worker_id=event.worker_id, server_version=event.server.version, reconnect=reconnect)
        )
        self.tell_started()
        self._changes.notify()

    def tell_started(self) -> None:
        """Let go who waits for the first registration."""
        status, self.task_status = self.task_status, None
        if status is not None:
            status.started()

    def on_go_away(self, event: GoAway) -> None:
        """Make the connection anew elsewhere, once promised jobs have come.  Running ones do not depend on it."""
        self._log.info("the server asks us to connect elsewhere")
        self.asked_to_leave = True
        self.leave_if_asked()

    def leave_if_asked(self) -> None:
        """A promise was kept or has lapsed: nothing may hold us here any more."""
        if self.asked_to_leave and self.session is not None and self._book.reserved == 0:
            self.session.core.close(anyio.current_time(), reason="go away")

    def on_skipped(self, event: MessageSkipped) -> None:
        """A message was of no use; of an offer that is told, for a room waits for what came of it."""
        if event.kind == "offer":
            self._log.info("%s", printable(event.reason))
            return
        self._log.debug("skipped a %s message: %s", event.kind, event.reason)

    def on_closed(self, event: ConnectionClosed) -> None:
        """The conversation is over; the session ends by itself."""
        self._changes.notify()
