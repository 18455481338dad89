"""A scenario: everything that a seed decides, as a value.

``generate(seed)`` draws one; ``to_json`` and ``from_json`` keep it; ``smaller`` proposes simpler ones, for shrinking.
The run itself draws nothing from the seed but the schedule (``scheduler_seed``) and the network's small change
(latencies, splits), each from a generator of its own name, so that a draw added here does not shift them.

Swarm: the seed draws which *kinds* of fault are on before it draws any fault.  With all kinds always on, faults mask
each other: a worker that is reset every second never gets as far as the fault that would hurt it.

Pure: layer 2.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

__all__ = [
    "DOINGS",
    "FAULT_KINDS",
    "Fault",
    "JobPlan",
    "MediaPlan",
    "Scenario",
    "WorkerPlan",
    "draw_fault",
    "draw_job",
    "generate",
]

CHAOS_SECONDS = 120.0
"""Virtual seconds of chaos, at least."""

JOBS_MIN, FAULTS_MIN = 8, 3
"""What a seed has at least: jobs that a worker was given, of all types, and faults that took effect."""

STATES = (
    "registering",
    "offer in flight",
    "accepted but not assigned",
    "joining",
    "running",
    "reporting",
    "draining",
    "backoff",
)
"""What may be going on at a worker, for faults that wait for it and goals that count it."""

PAIRED = ("reset", "restart", "hang")
"""Faults that must strike in each of these states at least once in a set of seeds."""

TYPES = ("room", "participant", "publisher")

#: What a job's handler may do, and how often (_actor.py has a method for each).
DOINGS: Mapping[str, int] = {
    "return": 40,
    "raise": 10,
    "group": 4,
    "hang": 20,
    "shield": 4,
    "stuck": 5,
    "swallow": 5,
    "shutdown": 4,
    "cancel": 3,
    "checkpoints": 3,
    "deadline": 0,  # not drawn: a job is given it, see _draw_jobs
}
REQUESTS: Mapping[str, int] = {
    "accept": 72,
    "ponder": 10,
    "slow": 8,
    "never": 3,
    "raise": 3,
    "decline": 2,
    "reject": 2,
}
"""How an offer is answered, and how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """A kind of fault: what it is and how long it lasts."""

    name: str
    about: str
    span: tuple[float, float] = (0.0, 0.0)
    """Range of its duration in seconds; (0, 0) for an instant."""
    weight: int = 2
    on: str = "network"
    """``network``, ``server``, ``worker`` or ``room``: who applies it."""


def _kind(name: str, about: str, span: tuple[float, float] = (0, 0), weight: int = 2, on: str = "network") -> FaultKind:
    return FaultKind(name=name, about=about, span=span, weight=weight, on=on)


#: Every fault there is.  To add one: a row here, a method ``_<name>`` where it is applied (``_faults.py``).
FAULT_KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        _kind("latency", "deliveries take up to a second", (2, 15)),
        _kind("dribble", "bytes arrive in pieces of one to five", (1, 6)),
        _kind("stall", "nothing is delivered in one direction, then all of it", (1, 12)),
        _kind("hang", "nothing is delivered in either direction any more; the connection stays open", (20, 45)),
        _kind("half_close", "one direction ends"),
        _kind("reset", "the connection breaks in the middle of what is on its way", weight=4),
        _kind("refuse_connect", "connects are refused", (1, 10)),
        _kind("hang_connect", "connects get no answer", (2, 15)),
        _kind("http_error", "the upgrade is answered 404, 429 or 503", (2, 12)),
        _kind("unauthorized", "the upgrade is answered 401 or 403", (0.5, 6), 1),
        _kind("choke", "the server does not read, so that the worker's writes block", (1, 14)),
        _kind("garbage", "a frame of random bytes reaches the worker"),
        _kind("unknown_message", "a message of a newer protocol, or an empty one, reaches the worker"),
        _kind("stray_assignment", "a job is assigned that the worker has not accepted, or not on this connection"),
        _kind("late_pong", "the server's frames arrive half a minute late", (31, 34), 1),
        _kind("double_assignment", "the next assignment arrives twice"),
        _kind("reordered_assignment", "the next assignment arrives after what follows it"),
        _kind("clock_skew", "the worker's clock is off by minutes", (5, 20), 1),
        _kind("restart", "the server dies and comes back", (0.2, 8), 3, on="server"),
        _kind("go_away", "the server asks a worker to connect elsewhere", on="server"),
        _kind("delete_dispatch", "a dispatch is deleted under its job", weight=3, on="server"),
        _kind("drain", "a worker is stopped and comes back", (0.5, 10), 3, on="worker"),
        _kind("stop_again", "a worker that drains is told to stop once more, sooner or later", on="worker"),
        _kind("cancel", "a worker's start() is cancelled and it comes back", (0.5, 10), 2, on="worker"),
        _kind("join_refused", "the next join of anybody is refused", on="room"),
        _kind("join_hangs", "the next join of anybody is not answered", on="room"),
        _kind("room_lost", "an agent's connection to its room is lost for good", on="room"),
        _kind("room_interrupted", "an agent's connection to its room breaks and comes back", (0.5, 5), on="room"),
        _kind("duplicate_identity", "somebody joins with an agent's identity", on="room"),
        _kind("removed", "an agent is removed from its room", on="room"),
        _kind("room_closed", "a room is deleted", on="room"),
        _kind("event_storm", "hundreds of data packets and changes at once", on="room"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """A worker and how it is set."""

    type: str
    turns: tuple[str, ...] = ()
    """Further types: a registration is for one, so each life serves the next of them, round and round."""
    turn_seconds: float = 0.0
    """How long a life lasts that makes way for the next type; it ends as any stopped worker does."""
    max_jobs: int | None = None
    shutdown_timeout: float = 5.0
    cancel_grace: float = 1.5
    cleanup_timeout: float = 2.0
    job_timeout: float | None = None
    reconnect_timeout: float = 60.0
    starts_at: float = 0.0

    @property
    def types(self) -> tuple[str, ...]:
        """Those that its lives serve."""
        return (self.type, *self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A job to be launched: when, of which type, in which room, and what its handler does."""

    at: float
    type: str
    room: str
    request: str = "accept"
    """One of ``REQUESTS``."""
    do: str = "return"
    """One of ``DOINGS``."""
    seconds: float = 1.0
    children: int = 0
    cleanup: float = 0.0
    """Seconds its clean-up takes; 0 for none."""
    delete_after: float = 0.0
    """Seconds until its dispatch is deleted, which terminates it; 0 for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault to come."""

    at: float
    kind: str
    target: int = 0
    """Index of the worker concerned; of the room for room faults.  Taken modulo what there is."""
    seconds: float = 0.0
    when: str = ""
    """A state to wait for (one of ``STATES``); empty for none."""
    value: int = 0
    """What the kind wants to know besides: a status, a direction, a seed for bytes."""


LISTENINGS = ("read", "sleep", "unsubscribe", "close", "abandon", "leave")
"""What an agent does about a track after some frames of it (_media.py has a method for each)."""

TROUBLES = ("", "mute", "unpublish", "wire", "resume", "rejoin", "revoke", "vanish", "remove")
"""What befalls somebody who speaks, half way (_media.py has a method for each but the first)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPlan:
    """Somebody who comes to an agent's room and speaks in numbered frames."""

    at: float
    target: int = 0
    """Which of the agents that are in a room then, modulo how many there are."""
    frames: int = 30
    """How many it says, of 10 ms each."""
    listen: int = 10
    """How many the agent listens to before it does its part."""
    capacity: int = 8
    """How many may wait for it."""
    then: str = "read"
    """One of ``LISTENINGS``."""
    trouble: str = ""
    """One of ``TROUBLES``."""


PROFILES = ("instant", "livekit-1.13")
"""What ``rooms.DELAYS`` knows by name."""

#: What a field may hold, by its annotation; those that are not here are rows, which are looked at one by one.
_HOLDS: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
}

_SEEDS = ("seed", "scheduler_seed")
"""Numbers that may be anything."""

_AT_LEAST_ONE = ("max_jobs",)


def _odd(row: Any) -> Iterator[str]:
    """What a row holds that it cannot mean: a number in words, less than nothing, no number at all."""
    for spec in fields(row):
        kinds = _HOLDS.get(str(spec.type))
        value: Any = getattr(row, spec.name)
        if kinds is None or (value is None and type(None) in kinds):
            continue
        right = isinstance(value, kinds) and not isinstance(value, bool)
        least = 1 if spec.name in _AT_LEAST_ONE else 0
        if isinstance(value, int | float) and spec.name not in _SEEDS and not least <= value < math.inf:
            right = False
        if not right:
            yield f"{spec.name} cannot be {value!r:.80}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One simulated history to be."""

    seed: int
    scheduler_seed: int
    chaos_seconds: float = CHAOS_SECONDS
    jobs_min: int = 0
    """Chaos goes on, with further jobs, until so many were given to workers, some of each type."""
    faults_min: int = 0
    """Chaos goes on, with further faults, until so many took effect."""
    workers: tuple[WorkerPlan, ...] = ()
    jobs: tuple[JobPlan, ...] = ()
    faults: tuple[Fault, ...] = ()
    media: tuple[MediaPlan, ...] = ()
    delays: str = "instant"
    """How long rooms take: one of ``PROFILES``."""
    version: int = field(default=1)

    def to_json(self) -> str:
        """The scenario as text; ``from_json`` gives an equal one back."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Scenario:
        """The scenario of a text.  ValueError for what is none."""
        try:
            data = cast("dict[str, Any]", json.loads(text))
            if data.get("version") != 1:
                raise ValueError(f"scenario version {data.get('version')!r} is not known")
            for row in data["workers"]:
                row["turns"] = tuple(row.get("turns", ()))
            data["workers"] = tuple(WorkerPlan(**row) for row in data["workers"])
            data["jobs"] = tuple(JobPlan(**row) for row in data["jobs"])
            data["faults"] = tuple(Fault(**row) for row in data["faults"])
            data["media"] = tuple(MediaPlan(**row) for row in data.get("media", ()))
            scenario = cls(**data)
        except (TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise ValueError(f"not a scenario: {exc}") from exc
        for row in (scenario, *scenario.workers, *scenario.jobs, *scenario.faults, *scenario.media):
            for odd in _odd(row):
                raise ValueError(f"not a scenario: {odd}")
        for name, known in scenario._names():
            if name not in known:
                raise ValueError(f"not a scenario: {name!r} is none of {', '.join(known)}")
        if not scenario.workers:
            raise ValueError("not a scenario: it has no workers")
        return scenario

    def _names(self) -> Iterator[tuple[str, Collection[str]]]:
        """Every word that somebody will look up, and where: a file is written by people too."""
        yield self.delays, PROFILES
        for worker in self.workers:
            yield from ((name, TYPES) for name in worker.types)
        for job in self.jobs:
            yield from ((job.type, TYPES), (job.request, REQUESTS), (job.do, DOINGS))
        for fault in self.faults:
            yield from ((fault.kind, FAULT_KINDS), (fault.when, ("", *STATES)))
        for plan in self.media:
            yield from ((plan.then, LISTENINGS), (plan.trouble, TROUBLES))

    def smaller(self) -> Iterator[Scenario]:
        """Simpler scenarios, the boldest first: without half the faults or jobs, without one, with a plainer job."""
        if self.jobs_min or self.faults_min:
            yield replace(self, jobs_min=0, faults_min=0)
        for name in ("faults", "jobs", "media"):
            items: tuple[Any, ...] = getattr(self, name)
            half = len(items) // 2
            if half > 1:
                yield replace(self, **{name: items[:half]})
                yield replace(self, **{name: items[half:]})
            for index in range(len(items)):
                yield replace(self, **{name: items[:index] + items[index + 1 :]})
        for index in range(len(self.workers)):
            if len(self.workers) > 1:
                yield replace(self, workers=self.workers[:index] + self.workers[index + 1 :])
            if self.workers[index].turns:
                steady = replace(self.workers[index], turns=(), turn_seconds=0.0)
                yield replace(self, workers=(*self.workers[:index], steady, *self.workers[index + 1 :]))
        for index, job in enumerate(self.jobs):
            for plainer in (
                replace(job, cleanup=0.0),
                replace(job, children=0),
                replace(job, delete_after=0.0),
                replace(job, request="accept"),
                replace(job, do="return"),
            ):
                if plainer != job:
                    yield replace(self, jobs=(*self.jobs[:index], plainer, *self.jobs[index + 1 :]))
        if self.scheduler_seed:
            yield replace(self, scheduler_seed=0)


def generate(seed: int, *, kinds: tuple[str, ...] | None = None, chaos_seconds: float = CHAOS_SECONDS) -> Scenario:
    """The scenario of a seed.  ``kinds`` restricts the faults."""

    def rng(purpose: str) -> random.Random:
        # Text seeds go through SHA-512: equal in every process, independent between purposes.
        return random.Random(f"{purpose}:{seed}")

    workers = _draw_workers(rng("workers"))
    return Scenario(
        seed=seed,
        scheduler_seed=rng("scheduler").getrandbits(32),
        chaos_seconds=chaos_seconds,
        jobs_min=JOBS_MIN,
        faults_min=FAULTS_MIN,
        workers=workers,
        jobs=_draw_jobs(rng("jobs"), chaos_seconds, workers),
        faults=_draw_faults(rng("faults"), kinds or tuple(FAULT_KINDS), chaos_seconds),
        media=_draw_media(rng("media"), chaos_seconds),
        delays="livekit-1.13",
    )


def _draw_media(rng: random.Random, chaos: float) -> tuple[MediaPlan, ...]:
    """Few and short: a frame costs as much as a message."""
    plans = [
        MediaPlan(
            at=round(rng.uniform(2.0, chaos), 1),
            target=rng.randrange(8),
            frames=rng.choice((10, 25, 40)),
            listen=rng.choice((0, 1, 5, 15)),
            capacity=rng.choice((1, 4, 50)),
            then=rng.choice(LISTENINGS),
            trouble=rng.choice(TROUBLES),
        )
        for _ in range(rng.choice((0, 1, 2, 3)))
    ]
    return tuple(sorted(plans, key=lambda plan: plan.at))


def _draw_workers(rng: random.Random) -> tuple[WorkerPlan, ...]:
    """One to three, which serve all types between them: each its own, or several in turn.  While none of them serves a
    type, jobs of it find nobody; with two of one type at a time the server has a choice."""
    x, y, z = rng.sample(TYPES, 3)
    topologies: tuple[tuple[tuple[str, ...], ...], ...] = {
        1: (((x, y, z),),),
        2: (((x,), (y, z)), ((x, y), (y, z)), ((x, y, z), (y, z, x))),
        3: (((x,), (y,), (z,)), ((x,), (y,), (z,)), ((x,), (x,), (y, z)), ((x, y), (y, z), (z, x))),
    }[rng.choice((1, 2, 3, 3))]
    return tuple(
        WorkerPlan(
            type=types[0],
            turns=types[1:],
            turn_seconds=round(rng.uniform(10.0, 30.0), 1) if types[1:] else 0.0,
            max_jobs=rng.choice((1, 1, 2, 3, None)),
            shutdown_timeout=rng.choice((0.0, 1.0, 5.0, 10.0)),
            cancel_grace=rng.choice((0.5, 1.5, 1.5)),
            cleanup_timeout=rng.choice((0.0, 1.0, 2.0)),
            job_timeout=rng.choice((None, None, None, 5.0, 20.0)),
            reconnect_timeout=rng.choice((1.0, 3.0, 60.0)),
            starts_at=rng.choice((0.0, 0.0, rng.uniform(0, 10))),
        )
        for types in rng.choice(topologies)
    )


def _draw_jobs(rng: random.Random, chaos: float, workers: tuple[WorkerPlan, ...]) -> tuple[JobPlan, ...]:
    """At least eight jobs of all three types, some in bursts at one instant."""
    jobs: list[JobPlan] = []
    count = rng.randint(12, 18) * 3 // len(workers)  # where types take turns, part of their jobs find nobody
    while len(jobs) < count:
        at = round(rng.uniform(1.0, chaos - 5.0), rng.choice((0, 3)))
        burst = rng.choice((1, 1, 1, 2, 4))
        for _ in range(min(burst, count - len(jobs))):
            kind = TYPES[len(jobs) % 3]
            room = f"room-{len(jobs) if rng.random() < 0.7 else rng.randint(0, 3)}"
            limits = [worker.job_timeout for worker in workers if kind in worker.types and worker.job_timeout]
            job = draw_job(rng, at, kind, room)
            if limits and rng.random() < 0.3:
                job = replace(job, do="deadline", seconds=limits[0])  # a tie: it ends exactly at its time-out
            jobs.append(job)
    return tuple(sorted(jobs, key=lambda job: job.at))


def draw_job(rng: random.Random, at: float, kind: str, room: str) -> JobPlan:
    """A job of a type, in a room."""
    return JobPlan(
        at=at,
        type=kind,
        room=room,
        request=rng.choices(tuple(REQUESTS), tuple(REQUESTS.values()))[0],
        do=rng.choices(tuple(DOINGS), tuple(DOINGS.values()))[0],
        seconds=rng.choice((0.0, 0.05, 1.0, rng.uniform(0, 5), rng.uniform(0, 30))),
        children=rng.choice((0, 0, 1, 3)),
        cleanup=rng.choice((0.0, 0.0, 0.5, 4.0)),
        delete_after=rng.choice((0.0, 0.0, 0.001, 1.0, rng.uniform(0, 20))),
    )


def _draw_faults(rng: random.Random, kinds: tuple[str, ...], chaos: float) -> tuple[Fault, ...]:
    on = [kind for kind in kinds if rng.random() < 0.4] or [rng.choice(kinds)]
    weights = [FAULT_KINDS[kind].weight for kind in on]
    faults: list[Fault] = []
    for kind in rng.choices(on, weights, k=rng.randint(8, 18)):
        fault = draw_fault(rng, kind, round(rng.uniform(0.0, chaos), rng.choice((0, 1, 3))))
        if kind in (*PAIRED, *_ONLY_WHEN) and fault.when in _COMPANIONS:
            companion = draw_fault(rng, _COMPANIONS[fault.when], fault.at)
            if companion.kind in kinds:
                when = "running" if companion.kind == "drain" else ""
                faults.append(replace(companion, target=fault.target, when=when))
        faults.append(fault)
    return tuple(sorted(faults, key=lambda fault: fault.at))


#: States that hardly last, and the fault that makes them last.
_COMPANIONS: Mapping[str, str] = {"draining": "drain", "joining": "join_hangs"}

#: Faults that mean nothing but in one state.
_ONLY_WHEN: Mapping[str, str] = {"stop_again": "draining"}

#: States in which a fault finds most to hurt.
_OFTEN_WHEN: Mapping[str, tuple[str, ...]] = {
    "cancel": ("running", "joining"),
    "choke": ("running",),
    "drain": ("offer in flight", "accepted but not assigned", "running"),
}


def draw_fault(rng: random.Random, kind: str, at: float) -> Fault:
    """A fault of a kind."""
    low, high = FAULT_KINDS[kind].span
    when = rng.choice(STATES) if rng.random() < (0.8 if kind in PAIRED else 0.4) else ""
    if kind in _OFTEN_WHEN and rng.random() < 0.5:
        when = rng.choice(_OFTEN_WHEN[kind])
    return Fault(
        at=at,
        kind=kind,
        target=rng.randrange(8),
        seconds=round(rng.uniform(low, high), 3),
        when=_ONLY_WHEN.get(kind, when),
        value=rng.getrandbits(16),
    )
