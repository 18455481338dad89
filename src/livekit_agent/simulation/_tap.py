"""What connections say and hear, as notes of a trace: the server's transcript, and the worker's.

Pure: layer 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .._types import JobStatus
from ..protocol import ConnectionClosed, Event, Kind, Role, SignalConnection, Stage
from ._trace import Trace, Value

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Tap", "who_am_i"]

#: Whose task this is: ``w0.1`` for everything that a worker's first life runs.
_NOBODY = "world"
who_am_i: ContextVar[str] = ContextVar("livekit_agent_simulation_who", default=_NOBODY)

_CLOSING = (Stage.WORKER_CLOSING, Stage.SERVER_CLOSING)

Row = tuple[str, dict[str, Value]]


def _status(number: int) -> str:
    return JobStatus(number).name if number in (0, 1, 2, 3) else str(number)


#: What is noted of each message that somebody says, from the protobuf message.
_SAID: Mapping[Kind, Callable[[Any], Row]] = {
    Kind.REGISTER: lambda m: ("", {"agent": m.register.agent_name}),
    Kind.ANSWER: lambda m: (
        m.availability.job_id,
        {"yes": m.availability.available, "terminate": m.availability.terminate},
    ),
    Kind.JOB_STATUS: lambda m: (
        m.update_job.job_id,
        {"status": _status(m.update_job.status), "error": m.update_job.error},
    ),
    Kind.WORKER_STATUS: lambda m: (
        "",
        {
            "full": bool(m.update_worker.status),
            "load": round(m.update_worker.load, 6),
            "count": m.update_worker.job_count,
            "draining": m.update_worker.draining,
        },
    ),
    Kind.MIGRATE: lambda m: ("", {"jobs": tuple(m.migrate_job.job_ids)}),
    Kind.REGISTERED: lambda m: ("", {"worker": m.register.worker_id}),
    Kind.OFFER: lambda m: (m.availability.job.id, {}),
    Kind.ASSIGNMENT: lambda m: (m.assignment.job.id, {}),
    Kind.TERMINATION: lambda m: (m.termination.job_id, {}),
}

#: The same of each message that somebody hears, from the core's event.
_HEARD: Mapping[Kind, Callable[[Any], Row]] = {
    Kind.REGISTER: lambda e: ("", {"agent": e.registration.agent_name}),
    Kind.ANSWER: lambda e: (e.job_id, {"yes": e.available, "terminate": e.terminate}),
    Kind.JOB_STATUS: lambda e: (e.job_id, {"status": _status(e.status), "error": e.error}),
    Kind.WORKER_STATUS: lambda e: (
        "",
        {"full": e.full, "load": round(e.load, 6), "count": e.job_count, "draining": e.draining},
    ),
    Kind.MIGRATE: lambda e: ("", {"jobs": e.job_ids}),
    Kind.REGISTERED: lambda e: ("", {"worker": e.worker_id}),
    Kind.OFFER: lambda e: (e.job.id, {}),
    Kind.ASSIGNMENT: lambda e: (e.job.id, {}),
    Kind.TERMINATION: lambda e: (e.job_id, {}),
}


#: A kind's word in the trace.
_WORDS: Mapping[Kind, str] = {kind: kind.name.lower() for kind in Kind}


class Tap:
    """The tracer of a simulation: set as ``SignalConnection.tracer`` while it runs."""

    def __init__(self, trace: Trace, now: Callable[[], float]) -> None:
        self._trace = trace
        self._now = now
        self._labels: dict[SignalConnection, str] = {}
        self._nameless = 0

    def label(self, connection: SignalConnection) -> str:
        """The connection's name in the trace: of the task that first spoke or heard on it."""
        label = self._labels.get(connection)
        if label is None:
            who = who_am_i.get()
            if who == _NOBODY:
                # It ended without a word, by the server's own timer: nobody's task, and more than one may.
                self._nameless += 1
                who = f"{_NOBODY}#{self._nameless}"
            label = f"s:{who}" if connection.role is Role.SERVER else who
            self._labels[connection] = label
        return label

    def said(self, connection: SignalConnection, kind: Kind, message: Message, now: float) -> None:
        """See ``protocol.Tracer``."""
        label = self.label(connection)
        extract = _SAID.get(kind)
        job, data = ("", {}) if extract is None else extract(message)
        self._trace.write(self._now(), label, "say", _WORDS[kind], job, data)
        if type(message).FromString(message.SerializeToString()) != message:
            self._trace.note(self._now(), label, "unstable", _WORDS[kind])

    def heard(self, connection: SignalConnection, kind: Kind, event: Event, now: float) -> None:
        """See ``protocol.Tracer``.  What comes while the connection is closing is legal and counts for nothing."""
        extract = _HEARD.get(kind)
        job, data = ("", {}) if extract is None else extract(event)
        if connection.stage in _CLOSING:
            data["unheard"] = True
        self._trace.write(self._now(), self.label(connection), "hear", _WORDS[kind], job, data)

    def ended(self, connection: SignalConnection, event: ConnectionClosed) -> None:
        """See ``protocol.Tracer``."""
        error = "" if event.error is None else type(event.error).__name__
        self._trace.note(self._now(), self.label(connection), "closed", "", "", code=event.code, error=error)
        self._labels.pop(connection, None)
