"""The server's end of one worker's connection, answering as the real server does.

Its own business here: the 10 s register deadline, a WebSocket ping each 10 s, pongs, the encoding of the last frame
read, and that violations drop the connection *without* a Close frame.  Whom to offer what is ``dispatch._core``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .._bounds import KEEPALIVE_INTERVAL, REGISTER_TIMEOUT
from .._errors import LocalProtocolError, RemoteProtocolError, printable
from .._options import valid_deployment
from .._types import JobStatus, JobType
from . import _codec
from ._connection import SignalConnection
from ._events import (
    AvailabilityReceived,
    Event,
    JobStatusReceived,
    MigrateReceived,
    PingReceived,
    RegisterReceived,
    ServerInfo,
    SimulateReceived,
    UpgradeRequested,
    WorkerStatusReceived,
)
from ._jobs import JobBook
from ._state import Input, JobStage, Kind, Role, Stage
from ._timers import Timer
from ._websocket import Item, Requested

if TYPE_CHECKING:
    from livekit.protocol import agent as pb

__all__ = ["ServerConnection"]

_JOB_TYPES = frozenset(int(t) for t in JobType)
_ASSIGNED = (JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING)


class ServerConnection(SignalConnection):
    """See :class:`SignalConnection`; the verbs of a server."""

    role: ClassVar[Role] = Role.SERVER
    _peer: ClassVar[Role] = Role.WORKER

    def __init__(self, *, now: float, wall: float = 0.0) -> None:
        super().__init__(now=now, wall=wall, book=JobBook())
        # The time to send the request's head; a worker that never finishes it is dropped like a silent one.
        self._timers.set(Timer.HANDSHAKE, now + REGISTER_TIMEOUT)

    # ------------------------------------------------------------------------------------ verbs

    def accept_upgrade(self, now: float) -> bool:
        """Answer 101.  False, with nothing sent, when the request is no valid upgrade: reject it."""
        if self._stage is not Stage.UPGRADING:
            raise LocalProtocolError("there is no upgrade request to accept")
        if not self._ws.accept_upgrade():
            return False
        self._step(Kind.UPGRADE_ACCEPTED)
        self._timers.set(Timer.REGISTER, now + REGISTER_TIMEOUT)
        self._timers.set(Timer.KEEPALIVE, now + KEEPALIVE_INTERVAL)
        return True

    def reject_upgrade(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, now: float = 0.0
    ) -> None:
        """Answer with an HTTP error and finish."""
        if self._stage is not Stage.UPGRADING:
            raise LocalProtocolError("there is no upgrade request to refuse")
        self._ws.reject_upgrade(status, body, headers or {"content-type": "text/plain; charset=utf-8"})
        self._step(Kind.UPGRADE_REFUSED)
        self._end(1006, f"refused with HTTP {status}", None)

    def registered(self, worker_id: str, server: ServerInfo, now: float) -> None:
        """Take the worker on."""
        self._now = now
        if self._stage is not Stage.REGISTERING:
            raise LocalProtocolError("the worker has not asked to be registered")
        self._say(Kind.REGISTERED, _codec.registered(worker_id, server))

    def offer(self, job: pb.Job, now: float) -> None:
        """Ask whether the worker wants a job; one offer per job and connection."""
        self._now = now
        old = self._book.get(job.id)
        if old is not None and old.stage not in (JobStage.DECLINED, JobStage.LAPSED):
            raise LocalProtocolError(f"job {job.id} was offered on this connection already")
        self._say(Kind.OFFER, _codec.offer(job))
        self._book.open(job.id, 0)

    def withdraw(self, job_id: str, now: float) -> None:
        """Wait no longer for the answer to an offer; the worker is not told, and a late answer is skipped."""
        record = self._book.get(job_id)
        if record is not None and record.allows(Input.EXPIRE):
            self._book.change(record, Input.EXPIRE)

    def assign(self, job: pb.Job, token: str, now: float, url: str = "") -> None:
        """Give the worker a job that it accepted."""
        self._now = now
        record = self._book.get(job.id)
        if record is None:
            raise LocalProtocolError(f"job {job.id} was not offered on this connection")
        record.require(Input.ASSIGN)
        self._say(Kind.ASSIGNMENT, _codec.assignment(job, token, url))
        self._book.change(record, Input.ASSIGN)

    def terminate(self, job_id: str, now: float) -> None:
        """Ask the worker to end a job; once per job."""
        self._now = now
        record = self._book.get(job_id)
        if record is None:
            raise LocalProtocolError(f"job {job_id} is not on this connection")
        record.require(Input.TERMINATE)
        self._say(Kind.TERMINATION, _codec.termination(job_id))
        self._book.change(record, Input.TERMINATE)

    def go_away(self, reason: str, now: float) -> None:
        """Ask the worker to drain this connection and come back on another."""
        self._now = now
        self._say(Kind.GO_AWAY, _codec.go_away(reason))

    # ------------------------------------------------------------------------------------ hearing

    def _on_handshake(self, item: Item, now: float) -> None:
        assert isinstance(item, Requested), item
        self._timers.stop(Timer.HANDSHAKE)
        self._stage = Stage.UPGRADING
        self._events.append(
            UpgradeRequested(path=item.path, query=item.query, headers=item.headers, method=item.method)
        )

    def _on_undecodable(self, what: str, now: float) -> None:
        self._violation(f"undecodable message: {what}")

    def _on_unknown(self, event: Event) -> None:
        self._violation("a message without a known variant")

    def _violation(self, text: str) -> None:
        self._step(Kind.LOST)
        self._end(1006, text, RemoteProtocolError(text, close_code=1006))

    def _on_register(self, event: RegisterReceived, now: float, before: Stage) -> None:
        self._timers.stop(Timer.REGISTER)
        if event.registration.job_type not in _JOB_TYPES:
            self._violation(f"unknown job type {event.registration.job_type}")
        elif not valid_deployment(event.registration.deployment):
            self._violation("invalid deployment name")
        else:
            self._events.append(event)

    def _on_answer(self, event: AvailabilityReceived, now: float, before: Stage) -> None:
        record = self._book.get(event.job_id)
        yes = event.available and not event.terminate
        verdict = Input.ACCEPT if yes else Input.DECLINE
        if record is None or not record.allows(verdict):
            self._skip("availability", f"no open offer of job {printable(event.job_id, 80)}")
            return
        self._book.change(record, verdict)
        self._events.append(event)

    def _on_job_status(self, event: JobStatusReceived, now: float, before: Stage) -> None:
        record = self._book.get(event.job_id)
        if record is None or record.stage not in _ASSIGNED:
            self._skip("update_job", f"job {printable(event.job_id, 80)} is not running here")
            return
        # Any status overwrites any other on the real server; only SUCCESS and FAILED move the machine on.
        if event.status == JobStatus.RUNNING and record.allows(Input.RUN):
            self._book.change(record, Input.RUN)
        elif event.status in (JobStatus.SUCCESS, JobStatus.FAILED):
            self._book.end(record, JobStatus(event.status), event.error)
            self._book.release(record.job_id)
            self._book.prove(record)
        self._events.append(event)

    def _on_worker_status(self, event: WorkerStatusReceived, now: float, before: Stage) -> None:
        self._events.append(event)

    def _on_ping(self, event: PingReceived, now: float, before: Stage) -> None:
        self._say(Kind.PONG, _codec.pong(event.timestamp, int((now + self._wall_offset) * 1000)))
        self._events.append(event)

    def _on_migrate(self, event: MigrateReceived, now: float, before: Stage) -> None:
        self._events.append(event)

    def _on_simulate(self, event: SimulateReceived, now: float, before: Stage) -> None:
        self._events.append(event)

    # ------------------------------------------------------------------------------------ time, end

    def _handshake_fault(self, text: str) -> Exception:
        return RemoteProtocolError(text, close_code=1006)

    def _on_timer(self, timer: Timer, job_id: str, now: float) -> None:
        if timer is Timer.KEEPALIVE:
            self._ws.send_ping()
            self._timers.set(Timer.KEEPALIVE, now + KEEPALIVE_INTERVAL)
        elif timer is Timer.CLOSE:
            self._step(Kind.LOST)
            self._end(1006, "the worker did not answer our close", None)
        elif timer is Timer.HANDSHAKE:
            self._violation("no upgrade request in time")
        elif timer is Timer.REGISTER:
            self._violation(f"no registration within {REGISTER_TIMEOUT:g} s")

    def _after_end(self) -> None:
        self._book.lose_connection()

    _HEARERS: ClassVar[Mapping[Kind, Callable[[Any, Any, float, Stage], None]]] = {
        Kind.REGISTER: _on_register,
        Kind.ANSWER: _on_answer,
        Kind.JOB_STATUS: _on_job_status,
        Kind.WORKER_STATUS: _on_worker_status,
        Kind.PING: _on_ping,
        Kind.MIGRATE: _on_migrate,
        Kind.SIMULATE: _on_simulate,
    }
