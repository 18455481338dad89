"""What the dispatch core keeps: workers' sockets, live rooms, jobs in search of a worker, dispatches being deleted.

Plain data, changed by ``_core``, ``_launches`` and ``_endings``; nothing here decides.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .._types import JobType
from ..protocol import ServerConnection
from ._deadlines import Deadlines
from ._events import DispatchEvent, DispatchRecord, JobRecord, WorkerRecord

if TYPE_CHECKING:
    from livekit.protocol import models as models_pb

__all__ = ["Book", "Delayed", "Deletion", "Launch", "Link", "LiveRoom", "WorkerKey"]

_ID_ALPHABET = string.ascii_letters + string.digits


class WorkerKey(NamedTuple):
    """What must match exactly between a job and a worker."""

    agent_name: str
    namespace: str
    job_type: JobType
    deployment: str

    @classmethod
    def of(cls, worker: WorkerRecord) -> WorkerKey:
        """The key of a worker."""
        return cls(worker.agent_name, worker.namespace, worker.job_type, worker.deployment)

    def serves(self, dispatch: DispatchRecord) -> bool:
        """Whether workers of this key are meant by the dispatch, in whatever namespace."""
        return self.agent_name == dispatch.agent_name and self.deployment == dispatch.deployment


@dataclass(slots=True, kw_only=True, eq=False)
class Link:
    """One worker's connection, registered or not yet."""

    connection: ServerConnection
    api_key: str = ""
    worker: WorkerRecord | None = None
    offers: dict[str, Launch] = field(default_factory=dict[str, "Launch"])
    """Jobs that it is being asked about."""

    @property
    def finished(self) -> bool:
        """True when, once ``data_to_send`` is written, the byte stream is to be closed."""
        return self.connection.finished


@dataclass(slots=True, kw_only=True, eq=False)
class LiveRoom:
    """A live room; a room of the same name that is opened later is another object."""

    message: models_pb.Room
    dispatches: dict[str, DispatchRecord] = field(default_factory=dict[str, DispatchRecord])
    present: dict[str, models_pb.ParticipantInfo] = field(default_factory=dict[str, "models_pb.ParticipantInfo"])
    publishing: dict[str, None] = field(default_factory=dict[str, None])
    agents: dict[str, JobRecord] = field(default_factory=dict[str, JobRecord])
    """Identity → the last job recorded for it; a participant's leaving ends that job."""
    leaving: dict[str, Deletion] = field(default_factory=dict[str, "Deletion"])
    """Terminated agents that a deletion waits for."""


@dataclass(slots=True, kw_only=True, eq=False)
class Launch:
    """A job that is looking for its worker."""

    job: JobRecord
    room: LiveRoom | None
    dispatch: DispatchRecord | None
    key: WorkerKey
    give_up_at: float
    only: Link | None = None
    """A simulated job is offered to the worker that asked for it and to nobody else."""


@dataclass(slots=True, kw_only=True, eq=False)
class Deletion:
    """A deleted dispatch whose jobs are being ended in turn."""

    room: LiveRoom
    dispatch: DispatchRecord
    queue: list[JobRecord] | None = None
    """None until the launches in progress have come to their end."""


@dataclass(slots=True, kw_only=True, eq=False)
class Delayed:
    """A launch that waits for ``launch_delay``."""

    start: Callable[[float, float], None]


class Book:
    """What all parts of the core share."""

    def __init__(self, keys: Mapping[str, str], rng: random.Random) -> None:
        self.keys = keys
        self.rng = rng
        self.workers: dict[str, WorkerRecord] = {}
        self.links: dict[str, Link] = {}
        """Registered workers' links, by worker id."""
        self.groups: dict[WorkerKey, dict[str, Link]] = {}
        """The same by key; a group exists while it has members."""
        self.jobs: dict[str, JobRecord] = {}
        self.deadlines: Deadlines[Link | Launch | Deletion | Delayed] = Deadlines()
        self._events: list[DispatchEvent] = []
        self._touched: dict[Link, None] = {}

    def say(self, event: DispatchEvent) -> None:
        """Report an event."""
        self._events.append(event)

    def take_events(self) -> list[DispatchEvent]:
        """What was reported since the last call."""
        events, self._events = self._events, []
        return events

    def touch(self, link: Link) -> None:
        """A link's connection was called: it may have bytes to send, another deadline, an end."""
        self._touched[link] = None
        self.deadlines.set(link, link.connection.next_deadline())

    def take_touched(self) -> list[Link]:
        """Links touched since the last call."""
        touched, self._touched = self._touched, {}
        return list(touched)

    def new_id(self, prefix: str) -> str:
        """An id as the real server makes them."""
        return prefix + "".join(self.rng.choices(_ID_ALPHABET, k=12))
