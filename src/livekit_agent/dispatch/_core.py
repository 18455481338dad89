"""The dispatch server's decisions: who is registered, which jobs a room starts, who is asked, what ends a job.

Pure and synchronous: bytes and room events in, bytes and :mod:`._events` out; ``now`` (monotonic seconds) and ``wall``
(Unix seconds) are arguments, randomness is the caller's ``random.Random``.

Theory of operation
-------------------

*Workers.*  Each worker's socket is a :class:`Link` around one ``SignalConnection`` in its SERVER role, which knows the
protocol; this file knows the policy.  A registered worker belongs to the group of its key (agent name, namespace, job
type, deployment).  API keys do not partition workers.

*Rooms.*  Whoever keeps the rooms says what happens in them (``room_opened``, ``participant_entered``, …); snapshots
come along as wire messages and are never changed here.  A room has dispatches; without an agents list it has one
implicit, nameless dispatch.

*Launches.*  A room job once per dispatch, a participant job per independent participant and dispatch, a publisher job
at a participant's first track and per dispatch; each once per namespace that has workers of the key.  A launch asks
one worker after the other, each at most once, within one budget (2.8 s) from its beginning; a no or a lost connection
goes on to the next, silence ends it, and a job that nobody took is lost: nothing is queued for workers that come
later.

*A job's end*, whichever comes first: the worker's SUCCESS or FAILED; the deletion of its dispatch (termination,
SUCCESS, and 3 s later the removal of its participant if it did not leave, job after job); its participant leaving the
room (termination, FAILED); its worker's connection ending, after which it is forgotten and nobody is told.

After every call take ``take_events()`` and, for every link in ``take_touched()``, ``data_to_send()`` and ``finished``;
then re-read ``next_deadline()``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .._bounds import DISPATCHES_PER_ROOM_MAX
from .._errors import ResourceExhaustedError
from .._options import valid_deployment
from .._types import JobStatus, JobType
from ..protocol import (
    AvailabilityReceived,
    ConnectionClosed,
    JobStatusReceived,
    MessageSkipped,
    RegisterReceived,
    ServerConnection,
    ServerInfo,
    SignalConnection,
    SimulateReceived,
    UpgradeRequested,
    WorkerStatusReceived,
)
from ._access import Refusal, judge_upgrade
from ._endings import Endings
from ._events import (
    DispatchCreated,
    DispatchDeleted,
    DispatchEvent,
    DispatchRecord,
    JobForgotten,
    JobLost,
    JobPhase,
    JobRecord,
    JobStatusChanged,
    MessageTolerated,
    Order,
    StatusUpdate,
    WorkerGone,
    WorkerRecord,
    WorkerRegistered,
    WorkerStatusChanged,
)
from ._launches import Launches
from ._messages import is_dependent, joining
from ._selection import as_on_the_wire
from ._state import Book, Delayed, Deletion, Launch, Link, LiveRoom, WorkerKey

if TYPE_CHECKING:
    from livekit.protocol import models as models_pb

__all__ = ["DispatchCore", "Link", "Order", "check_dispatches"]


def check_dispatches(number: int) -> None:
    """ResourceExhaustedError when a room may not have so many."""
    if number > DISPATCHES_PER_ROOM_MAX:
        raise ResourceExhaustedError(
            "too many dispatches in this room", resource="dispatches", used=number, limit=DISPATCHES_PER_ROOM_MAX
        )


class DispatchCore:
    """The dispatch server without its sockets."""

    def __init__(
        self,
        *,
        keys: Mapping[str, str],
        rng: random.Random,
        version: str = "",
        target_load: float = 0.7,
        launch_delay: float = 0.0,
        rooms_url: str = "",
    ) -> None:
        """``rooms_url`` goes into assignments: where the rooms are, if not where the worker is connected."""
        self._book = Book(keys, rng)
        self._endings = Endings(self._book)
        self._launches = Launches(
            self._book,
            self._endings,
            target_load=as_on_the_wire(target_load),
            rooms_url=rooms_url,
            settled=self._endings.launch_settled,
        )
        self._launch_delay = launch_delay
        self._rooms: dict[str, LiveRoom] = {}
        self.server_info = ServerInfo(version=version, protocol=17, agent_protocol=1, node_id=self._book.new_id("ND_"))

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """Registered workers by id."""
        return self._book.workers

    @property
    def jobs(self) -> Mapping[str, JobRecord]:
        """Jobs launched, by id, oldest first."""
        return self._book.jobs

    # -------------------------------------------------------------------------------------------- worker sockets

    def open(self, now: float, wall: float) -> Link:
        """A new socket of somebody who says to be a worker."""
        link = Link(connection=SignalConnection.server(now=now, wall=wall))
        self._book.touch(link)
        return link

    def receive_data(self, link: Link, data: bytes, now: float, wall: float) -> None:
        """Bytes from a worker, from the first of its HTTP request on."""
        if not link.finished:
            link.connection.receive_data(data, now)
        self._hear(link, now, wall)

    def receive_eof(self, link: Link, now: float, wall: float) -> None:
        """The worker's byte stream ended, or broke."""
        link.connection.receive_eof(now)
        self._hear(link, now, wall)

    def disconnect(self, worker_id: str, now: float, wall: float) -> bool:
        """Drop a worker's connection without a Close frame, as a crash would.  False if there is no such worker."""
        return self._verb(worker_id, lambda connection: connection.drop(), now, wall)

    def go_away(self, worker_id: str, reason: str, now: float, wall: float) -> bool:
        """Ask a worker to drain and to connect anew.  False if there is no such worker."""
        return self._verb(worker_id, lambda connection: connection.go_away(reason, now), now, wall)

    def drop(self, link: Link, now: float, wall: float) -> None:
        """Give a link up: its peer no longer reads."""
        link.connection.drop()
        self._hear(link, now, wall)

    def next_deadline(self) -> float:
        """When ``handle_timeout`` is due; infinity for never."""
        return self._book.deadlines.next()

    def handle_timeout(self, now: float, wall: float) -> None:
        """Act on what is due.  Spurious calls are harmless."""
        while (due := self._book.deadlines.pop_due(now)) is not None:
            match due:
                case Link():
                    due.connection.handle_timeout(now)
                    self._hear(due, now, wall)
                case Launch():
                    self._launches.lose(due, "no answer in time", now, wall)
                case Deletion():
                    self._endings.removal_due(due, now, wall)
                case Delayed():
                    due.start(now, wall)

    def take_events(self) -> list[DispatchEvent]:
        """What happened since the last call."""
        return self._book.take_events()

    def take_touched(self) -> list[Link]:
        """Links that may have something to send, or may have finished, since the last call."""
        return self._book.take_touched()

    # ----------------------------------------------------------------------------------------------------- rooms

    def room_opened(self, room: models_pb.Room, agents: Iterable[Order], now: float, wall: float) -> None:
        """A room exists.  ``agents`` is the list given with its creation, no longer than a room may have
        (:func:`check_dispatches`); empty means the implicit, nameless dispatch."""
        state = self._rooms[room.name] = LiveRoom(message=room)
        for order in list(agents) or [Order()]:
            # The real server drops an entry with a bad deployment and goes on without it.
            if valid_deployment(order.deployment):
                self._add(state, order, now, wall)

    def room_changed(self, room: models_pb.Room) -> None:
        """A newer snapshot of a room."""
        if (state := self._rooms.get(room.name)) is not None:
            state.message = room

    def room_ended(self, name: str) -> None:
        """A room is gone, its participants before it.  Jobs whose agent never joined hear nothing."""
        self._rooms.pop(name, None)

    def participant_entered(self, room: str, participant: models_pb.ParticipantInfo, now: float, wall: float) -> None:
        """Somebody joined.  A second join of the same identity comes after the first one's ``participant_gone``."""
        state = self._rooms.get(room)
        if state is None:
            return
        state.present[participant.identity] = participant
        if not is_dependent(participant):
            for dispatch in list(state.dispatches.values()):
                self._launch(state, dispatch, JobType.PARTICIPANT, joining(participant), now, wall)

    def participant_changed(self, room: str, participant: models_pb.ParticipantInfo) -> None:
        """A newer snapshot of a participant who is present."""
        state = self._rooms.get(room)
        if state is not None and participant.identity in state.present:
            state.present[participant.identity] = participant

    def track_published(self, room: str, participant: models_pb.ParticipantInfo, now: float, wall: float) -> None:
        """Somebody published a track; the first of a session starts publisher jobs."""
        state = self._rooms.get(room)
        if state is None or participant.identity not in state.present:
            return
        state.present[participant.identity] = participant
        if participant.identity in state.publishing:
            return
        state.publishing[participant.identity] = None
        if not is_dependent(participant):
            for dispatch in list(state.dispatches.values()):
                self._launch(state, dispatch, JobType.PUBLISHER, participant, now, wall)

    def participant_gone(self, room: str, identity: str, now: float, wall: float) -> None:
        """Somebody left, for whatever reason."""
        state = self._rooms.get(room)
        if state is None:
            return
        state.present.pop(identity, None)
        state.publishing.pop(identity, None)
        self._endings.participant_gone(state, identity, now, wall)

    # ------------------------------------------------------------------------------------------------ dispatches

    def create_dispatch(self, room: str, order: Order, now: float, wall: float) -> DispatchRecord:
        """Add a dispatch to a live room and launch its jobs.  Raises KeyError for a room that is not live."""
        return self._add(self._rooms[room], order, now, wall)

    def delete_dispatch(self, room: str, dispatch_id: str, now: float, wall: float) -> DispatchRecord | None:
        """Take a dispatch away and end its jobs.  None for an unknown id; KeyError for a room that is not live."""
        state = self._rooms[room]
        dispatch = state.dispatches.pop(dispatch_id, None)
        if dispatch is None:
            return None
        self._book.say(DispatchDeleted(dispatch=dispatch))
        self._endings.delete(state, dispatch, now, wall)
        return dispatch

    def dispatches(self, room: str) -> list[DispatchRecord]:
        """A live room's dispatches, oldest first.  Raises KeyError for a room that is not live."""
        return list(self._rooms[room].dispatches.values())

    def _add(self, room: LiveRoom, order: Order, now: float, wall: float) -> DispatchRecord:
        check_dispatches(len(room.dispatches) + 1)
        dispatch = DispatchRecord(
            id=self._book.new_id("AD_"),
            room=room.message.name,
            agent_name=order.agent_name,
            metadata=order.metadata,
            deployment=order.deployment,
            attributes=dict(order.attributes),
            restart_policy=order.restart_policy,
            created_at=wall,
        )
        room.dispatches[dispatch.id] = dispatch
        self._book.say(DispatchCreated(dispatch=dispatch))
        if not any(key.serves(dispatch) for key in self._book.groups):
            self._book.say(JobLost(dispatch=dispatch, job=None, reason="no worker is registered for it"))
        self._launch(room, dispatch, JobType.ROOM, None, now, wall)
        for participant in list(room.present.values()):
            if is_dependent(participant):
                continue
            if participant.identity in room.publishing:
                self._launch(room, dispatch, JobType.PUBLISHER, participant, now, wall)
            self._launch(room, dispatch, JobType.PARTICIPANT, participant, now, wall)
        return dispatch

    # -------------------------------------------------------------------------------------------------- launches

    def _launch(
        self,
        room: LiveRoom,
        dispatch: DispatchRecord,
        job_type: JobType,
        participant: models_pb.ParticipantInfo | None,
        now: float,
        wall: float,
    ) -> None:
        """One job for each namespace that has workers of the key, now or after ``launch_delay``."""

        def start(now: float, wall: float) -> None:
            dispatch.launching -= 1
            keys = [key for key in self._book.groups if key.job_type is job_type and key.serves(dispatch)]
            for key in keys:
                self._launches.start(room, dispatch, key, participant, now, wall)
            self._endings.launch_settled(dispatch, now, wall)

        dispatch.launching += 1
        if self._launch_delay > 0:
            self._book.deadlines.set(Delayed(start=start), now + self._launch_delay)
        else:
            start(now, wall)

    # ---------------------------------------------------------------------------------------- what workers say

    def _hear(self, link: Link, now: float, wall: float) -> None:
        """Act on everything a link's connection has to say."""
        handlers = self._HANDLERS
        while events := link.connection.events():
            for event in events:
                handler = handlers.get(type(event))
                if handler is not None:
                    handler(self, link, event, now, wall)
        self._book.touch(link)

    def _on_upgrade(self, link: Link, event: UpgradeRequested, now: float, wall: float) -> None:
        verdict = judge_upgrade(event.method, event.headers, event.query, self._book.keys, wall=wall)
        if isinstance(verdict, Refusal):
            headers = {"vary": "Origin", **verdict.headers}
            link.connection.reject_upgrade(verdict.status, verdict.body.encode(), headers, now)
        elif link.connection.accept_upgrade(now):
            link.api_key = verdict.api_key
        else:
            link.connection.reject_upgrade(400, b"Bad Request", {"vary": "Origin"}, now)

    def _on_register(self, link: Link, event: RegisterReceived, now: float, wall: float) -> None:
        registration = event.registration
        if link.finished:  # it left before it was answered
            return
        worker = WorkerRecord(
            id=self._book.new_id("AW_"),
            agent_name=registration.agent_name,
            namespace=registration.namespace,
            job_type=JobType(registration.job_type),
            deployment=registration.deployment,
            version=registration.version,
            api_key=link.api_key,
            permissions=registration.permissions,
        )
        link.worker = worker
        self._book.workers[worker.id] = worker
        self._book.links[worker.id] = link
        self._book.groups.setdefault(WorkerKey.of(worker), {})[worker.id] = link
        link.connection.registered(worker.id, self.server_info, now)
        self._book.say(WorkerRegistered(worker=worker))

    def _on_worker_status(self, link: Link, event: WorkerStatusReceived, now: float, wall: float) -> None:
        worker = link.worker
        if worker is None:
            return
        worker.load = event.load
        worker.draining = event.draining
        if event.full is not None:
            worker.full = event.full
        self._book.say(WorkerStatusChanged(worker=worker))

    def _on_availability(self, link: Link, event: AvailabilityReceived, now: float, wall: float) -> None:
        if not self._launches.answered(link, event, now, wall):
            self._tolerate(link, "availability", "it answers no open offer")

    def _on_job_status(self, link: Link, event: JobStatusReceived, now: float, wall: float) -> None:
        job = link.worker.jobs.get(event.job_id) if link.worker else None
        if job is None or link.worker is None:
            self._tolerate(link, "job status", "the job does not run on this connection")
            return
        job.history.append(StatusUpdate(status=event.status, error=event.error, wall=wall))
        job.status, job.error, job.updated_at = event.status, event.error, wall
        self._book.say(JobStatusChanged(job=job, status=event.status, error=event.error))
        if event.status in (JobStatus.SUCCESS, JobStatus.FAILED):
            del link.worker.jobs[job.id]
            self._endings.end(job, event.status, event.error, wall)

    def _on_simulate(self, link: Link, event: SimulateReceived, now: float, wall: float) -> None:
        worker = link.worker
        if worker is None or link.finished:
            return
        if event.room is None:
            # Accepting such a job crashes the real server; it cannot be assigned, so it is not made.
            self._tolerate(link, "simulate", "no room is named")
            return
        self._launches.simulate(link, worker, event, now, wall)

    def _on_skipped(self, link: Link, event: MessageSkipped, now: float, wall: float) -> None:
        self._tolerate(link, event.kind, event.reason)

    def _on_closed(self, link: Link, event: ConnectionClosed, now: float, wall: float) -> None:
        worker = link.worker
        if worker is None:
            return
        del self._book.workers[worker.id], self._book.links[worker.id]
        group = self._book.groups[WorkerKey.of(worker)]
        del group[worker.id]
        if not group:
            del self._book.groups[WorkerKey.of(worker)]
        link.worker = None
        for job in worker.jobs.values():
            job.phase = JobPhase.FORGOTTEN
            self._book.say(JobForgotten(job=job))
        self._book.say(WorkerGone(worker=worker, reason=event.reason or f"connection closed ({event.code})"))
        offers, link.offers = link.offers, {}
        for launch in offers.values():
            self._launches.offer_next(launch, now, wall)

    _HANDLERS: ClassVar[Mapping[type, Callable[[Any, Link, Any, float, float], None]]] = {
        UpgradeRequested: _on_upgrade,
        RegisterReceived: _on_register,
        WorkerStatusReceived: _on_worker_status,
        AvailabilityReceived: _on_availability,
        JobStatusReceived: _on_job_status,
        SimulateReceived: _on_simulate,
        MessageSkipped: _on_skipped,
        ConnectionClosed: _on_closed,
    }

    # ---------------------------------------------------------------------------------------------------- small

    def _verb(self, worker_id: str, act: Callable[[ServerConnection], None], now: float, wall: float) -> bool:
        link = self._book.links.get(worker_id)
        if link is None:
            return False
        act(link.connection)
        self._hear(link, now, wall)
        return True

    def _tolerate(self, link: Link, kind: str, reason: str) -> None:
        worker_id = link.worker.id if link.worker else ""
        self._book.say(MessageTolerated(worker_id=worker_id, kind=kind, reason=reason))
