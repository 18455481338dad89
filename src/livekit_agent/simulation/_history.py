"""The stories that a trace tells: of each connection, each worker's life and each of its jobs.

Checkers judge stories; here they are only put together, note by note, without an opinion.  A story knows nothing that
is not in the notes: what the SDK believes is in it only where the SDK said so (``stage`` and ``event`` notes).

Pure: layer 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ._scenario import Scenario
from ._trace import Note

__all__ = ["ENDINGS", "FINAL", "NOT_BACK", "ConnectionStory", "History", "JobStory", "LifeStory", "life_of"]

FINAL = ("SUCCESS", "FAILED")

ENDINGS = ("returned", "raised", "cancelled")
"""How ``on_job_assigned`` is left."""

#: In the reason of a job whose room took too long to reconnect.
NOT_BACK = ": not back after "

#: The reason of a job whose handler ignored its cancellation.
STUCK = "handler ignored its cancellation"

#: What a scripted handler does that ends at once when its scope is cancelled.
PLAIN = ("return", "deadline", "raise", "hang", "shutdown", "group", "cancel", "checkpoints")


def life_of(who: str) -> str:
    """``w0.2#5`` and ``s:w0.2#5`` belong to the life ``w0.2``."""
    return who.removeprefix("s:").partition("#")[0]


@dataclass(slots=True, kw_only=True)
class ConnectionStory:
    """A connection, as its worker's end lives it unless it says otherwise."""

    label: str
    life: LifeStory
    said: list[Note] = field(default_factory=list[Note])
    heard_by_server: int = 0
    registered_at: float | None = None
    closing_at: float | None = None
    """We, or the server, sent a Close."""
    leaving: bool = False
    """The server asked us to connect elsewhere: a Close is due, which nobody sees as long as nothing can be written."""
    closed_at: float | None = None
    last_delivery: float = -math.inf
    offers: dict[str, float] = field(default_factory=dict[str, float])
    """Unanswered, with the instant each was heard."""

    @property
    def talking(self) -> bool:
        """Registered, and neither closing nor closed."""
        return self.registered_at is not None and self.closing_at is None and self.closed_at is None


@dataclass(slots=True, kw_only=True)
class JobStory:
    """A job in one worker's life."""

    job: str
    life: LifeStory
    script: Mapping[str, Any] = field(default_factory=dict[str, Any])
    asked_at: float | None = None
    yes_at: float | None = None
    yes_on: str = ""
    lapsed_at: float | None = None
    assignments: int = 0
    """How often an assignment of it was heard."""
    assigned_at: float | None = None
    terminate_heard_at: float | None = None
    run_at: float | None = None
    ended_at: float | None = None
    """When its final status was decided."""
    run_on: ConnectionStory | None = None
    """The connection on which it could be said that it runs, at the instant when it began to."""
    registered_later: bool = False
    """The worker registered anew while it ran."""
    said: list[Note] = field(default_factory=list[Note])
    received: list[Note] = field(default_factory=list[Note])
    """Statuses that a server heard."""
    joined_at: float | None = None
    joins: int = 0
    breaks: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When it heard that its room reconnects, and that it was back; infinity while it is not."""
    left_reason: int | None = None
    started: list[float] = field(default_factory=list[float])
    out: list[Note] = field(default_factory=list[Note])
    """How and when ``on_job_assigned`` was left."""
    children: int = 0
    """Tasks of its own that run."""
    child_out: Note | None = None
    """How and when the last of them was left."""
    cleanups: list[int] = field(default_factory=list[int])
    cleaned: list[int] = field(default_factory=list[int])
    terminated: list[float] = field(default_factory=list[float])
    over: Note | None = None
    """``JobEnded``."""

    @property
    def running(self) -> bool:
        """Whether the handler is in its body."""
        return len(self.started) > len(self.out)

    @property
    def registered_while_running(self) -> bool:
        """Whether there was a connection to say so on.  One that ended in the very instant took nothing more."""
        if self.registered_later:
            return True
        on = self.run_on
        return on is not None and self.run_at != on.closed_at

    @property
    def holds_place(self) -> bool:
        """Promised or assigned, and not over."""
        return self.yes_at is not None and self.lapsed_at is None and (self.over is None or self.running)

    @property
    def plain(self) -> bool:
        """Whether its handler ends at once when it is cancelled."""
        return self.script.get("do") in PLAIN

    @property
    def last_out(self) -> Note | None:
        """How and when the last of it was left: the handler, or a task that it had left behind when it returned."""
        if self.running or not self.out:
            return None
        returned = self.out[-1]
        child = self.child_out
        return child if returned.kind == "returned" and child is not None and child.t > returned.t else returned

    @property
    def given_up_at(self) -> float:
        """The first instant after the room had all the time that it may take to come back; infinity if it has not."""
        for since, until in self.breaks:
            due = math.nextafter(since + float(self.life.plan["reconnect_timeout"]), math.inf)
            if due <= until:
                return due
        return math.inf

    @property
    def reason(self) -> str:
        """Why it ended, for people."""
        return "" if self.over is None else str(self.over.data["reason"])

    @property
    def status(self) -> str:
        """Its final status, if there is one."""
        return "" if self.over is None else str(self.over.data["status"])


@dataclass(slots=True, kw_only=True)
class LifeStory:
    """A worker from ``start()`` to its end."""

    label: str
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])
    jobs: dict[str, JobStory] = field(default_factory=dict[str, JobStory])
    current: dict[str, JobStory] = field(default_factory=dict[str, JobStory])
    """Those of its jobs that may hold a place: promised, and not seen to be over.  A life may have had thousands."""
    late: dict[str, JobStory] = field(default_factory=dict[str, JobStory])
    """Those whose handler ended after the job was said to be over: it had been stuck."""
    connection: ConnectionStory | None = None
    """The latest."""
    dials: int = 0
    stops: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """(when, timeout) of each."""
    cancelled_at: float | None = None
    draining_at: float | None = None
    refused: bool = False
    """The last attempt to connect was refused for its token."""
    ended: Note | None = None

    @property
    def max_jobs(self) -> float:
        """The hard limit."""
        limit = self.plan.get("max_jobs")
        return math.inf if limit is None else float(limit)

    @property
    def places(self) -> int:
        """Jobs that hold a place."""
        return sum(1 for job in self.current.values() if job.holds_place)

    @property
    def stopping_since(self) -> float:
        """When it was first told to stop; ``inf`` if never."""
        first = self.stops[0][0] if self.stops else math.inf
        return min(first, math.inf if self.cancelled_at is None else self.cancelled_at)

    @property
    def drain_deadline(self) -> float:
        """Until when running jobs may run on; a fatal error drains as a stop would."""
        deadlines = [when + timeout for when, timeout in self.stops]
        if not deadlines and self.draining_at is not None:
            deadlines.append(self.draining_at + float(self.plan.get("shutdown_timeout", math.inf)))
        return min(deadlines, default=math.inf)

    def job(self, job_id: str) -> JobStory:
        """The story of a job, begun if need be."""
        story = self.jobs.get(job_id)
        if story is None:
            story = self.jobs[job_id] = JobStory(job=job_id, life=self)
        return story


class History:
    """All stories of a run so far."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.acts: list[str] = []
        self.lives: dict[str, LifeStory] = {}
        self.connections: dict[str, ConnectionStory] = {}
        # The same by every label that was ever asked for: a note asks several times.
        self._life_by_who: dict[str, LifeStory] = {}
        self._connection_by_who: dict[str, ConnectionStory] = {}

    def life(self, who: str) -> LifeStory:
        """The life that a label belongs to."""
        story = self._life_by_who.get(who)
        if story is None:
            label = life_of(who)
            story = self.lives.get(label)
            if story is None:
                story = self.lives[label] = LifeStory(label=label)
            self._life_by_who[who] = story
        return story

    def connection(self, who: str) -> ConnectionStory:
        """The connection of a label, at either end."""
        story = self._connection_by_who.get(who)
        if story is None:
            label = who.removeprefix("s:")
            story = self.connections.get(label)
            if story is None:
                life = self.life(label)
                story = self.connections[label] = life.connection = ConnectionStory(label=label, life=life)
            self._connection_by_who[who] = story
        return story

    def jobs(self) -> Iterator[JobStory]:
        """Every job of every life."""
        for life in self.lives.values():
            yield from life.jobs.values()

    def job(self, note: Note) -> JobStory:
        """The job of a note in its worker's life."""
        return self.life(note.who).job(note.job)

    def see(self, note: Note) -> None:
        """Take a note in."""
        self.now = note.t
        tell = self._TELLERS.get(note.what)
        if tell is not None:
            tell(self, note)

    # ------------------------------------------------------------------------------------ the wire

    def _say(self, note: Note) -> None:
        if note.who.startswith("s:"):
            return
        connection = self.connection(note.who)
        connection.said.append(note)
        if note.kind == "answer":
            connection.offers.pop(note.job, None)
            if note.data["yes"]:
                job = connection.life.job(note.job)
                job.yes_at, job.yes_on, job.lapsed_at = note.t, note.who, None
                job.life.current[note.job] = job
        elif note.kind == "job_status":
            connection.life.job(note.job).said.append(note)

    def _hear(self, note: Note) -> None:
        if note.who.startswith("s:"):
            connection = self.connection(note.who)
            connection.heard_by_server += 1
            if note.kind == "job_status":
                connection.life.job(note.job).received.append(note)
            return
        connection = self.connection(note.who)
        if note.data.get("unheard"):
            return
        life = connection.life
        if note.kind == "registered":
            if connection.registered_at is None:
                connection.registered_at = note.t
            life.refused = False
            for job in life.jobs.values():
                if job.run_at is not None and job.ended_at is None:
                    job.registered_later = True
        elif note.kind == "offer":
            connection.offers.setdefault(note.job, note.t)
        elif note.kind == "assignment":
            life.job(note.job).assignments += 1
        elif note.kind == "termination":
            job = life.job(note.job)
            if job.terminate_heard_at is None:
                job.terminate_heard_at = note.t
        elif note.kind == "go_away":
            connection.leaving = True

    def _closed(self, note: Note) -> None:
        if note.who.startswith("s:"):
            return
        connection = self.connection(note.who)
        if connection.closed_at is None:
            connection.closed_at = note.t
        connection.offers.clear()
        if note.data.get("error") == "AuthenticationError":
            connection.life.refused = True

    def _frame(self, note: Note) -> None:
        connection = self.connection(note.who)
        if note.kind == "close" and connection.closing_at is None:
            connection.closing_at = note.t

    def _deliver(self, note: Note) -> None:
        if note.kind == "down":
            self.connection(str(note.data["connection"])).last_delivery = note.t

    # ------------------------------------------------------------------------------------ the worker

    def _worker(self, note: Note) -> None:
        life = self.life(note.who)
        if note.kind == "started":
            life.plan = note.data
        elif note.kind == "stop":
            life.stops.append((note.t, float(note.data["timeout"] or 0)))  # pyright: ignore[reportArgumentType]
        elif note.kind == "cancel":
            life.cancelled_at = note.t
        elif note.kind == "ended":
            life.ended = note

    def _dial(self, note: Note) -> None:
        self.life(note.who).dials += 1

    def _event(self, note: Note) -> None:
        life = self.life(note.who)
        if note.kind == "draining" and life.draining_at is None:
            life.draining_at = note.t
        elif note.kind == "job_ended":
            job = life.job(note.job)
            job.over = note
            if not job.running:
                life.current.pop(note.job, None)

    def _stage(self, note: Note) -> None:
        job = self.job(note)
        if note.kind == "assign":
            job.assigned_at = note.t
        elif note.kind == "run":
            job.run_at = note.t
            connection = job.life.connection
            talking = connection is not None and connection.talking and not connection.leaving
            job.run_on = connection if talking else None
        elif note.kind == "end":
            job.ended_at = note.t
        elif note.kind in ("expire", "lost") and job.assigned_at is None:
            job.lapsed_at = note.t

    # ------------------------------------------------------------------------------------ rooms and handlers

    def _room(self, note: Note) -> None:
        if not note.job:
            return
        for life in self.lives.values():
            job = life.jobs.get(note.job)
            if job is not None and job.assigned_at is not None:
                if note.kind == "entered":
                    job.joined_at = note.t
                    job.joins += 1
                elif note.kind == "broken":
                    if not job.breaks or job.breaks[-1][1] < math.inf:
                        job.breaks.append((note.t, math.inf))
                elif note.kind == "back":
                    job.breaks[-1] = (job.breaks[-1][0], note.t)
                else:
                    job.left_reason = int(note.data["reason"])  # pyright: ignore[reportArgumentType]

    def _handler(self, note: Note) -> None:
        job = self.job(note)
        kind = note.kind
        if kind == "asked":
            job.asked_at = note.t
            job.script = note.data
        elif kind == "started":
            job.started.append(note.t)
            job.life.current[note.job] = job  # also were it started again after its end
            job.script = {**job.script, **note.data}
        elif kind in ENDINGS:
            job.out.append(note)
            if job.over is not None:
                job.life.current.pop(note.job, None)
                if note.t > job.over.t:
                    job.life.late[note.job] = job
        elif kind == "child":
            job.children += 1
        elif kind == "child out":
            job.children -= 1
            job.child_out = note
        elif kind == "cleanup":
            job.cleanups.append(int(note.data["number"]))  # pyright: ignore[reportArgumentType]
        elif kind == "cleaned":
            job.cleaned.append(int(note.data["number"]))  # pyright: ignore[reportArgumentType]
        elif kind == "terminated":
            job.terminated.append(note.t)

    def _act(self, note: Note) -> None:
        self.acts.append(note.kind)

    _TELLERS: ClassVar[Mapping[str, Callable[[Any, Note], None]]] = {
        "act": _act,
        "say": _say,
        "hear": _hear,
        "closed": _closed,
        "frame": _frame,
        "deliver": _deliver,
        "worker": _worker,
        "dial": _dial,
        "event": _event,
        "stage": _stage,
        "room": _room,
        "handler": _handler,
    }
