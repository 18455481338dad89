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

import math
import random
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .._bounds import (
    DISPATCHES_PER_ROOM_MAX,
    OFFER_BUDGET,
    SERVER_JOBS_MAX,
    SIMULATED_OFFER_BUDGET,
    TERMINATED_REMOVAL_TIME,
)
from .._errors import ResourceExhaustedError
from .._options import valid_deployment
from .._types import JobMetadata, JobStatus, JobType
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
    agent_token,
)
from ._access import Refusal, judge_upgrade
from ._deadlines import Deadlines
from ._events import (
    DispatchCreated,
    DispatchDeleted,
    DispatchEvent,
    DispatchRecord,
    JobAssigned,
    JobDeclined,
    JobEnded,
    JobForgotten,
    JobLost,
    JobOffered,
    JobPhase,
    JobRecord,
    JobStatusChanged,
    JobTerminated,
    MessageTolerated,
    ParticipantRemovalDue,
    StatusUpdate,
    WorkerGone,
    WorkerRecord,
    WorkerRegistered,
    WorkerStatusChanged,
)
from ._messages import is_dependent, job_message, joining, participant_from_info, room_from_info, stamp_job
from ._selection import as_on_the_wire, bid, choose

if TYPE_CHECKING:
    from livekit.protocol import models as models_pb

__all__ = ["DispatchCore", "Link", "Order"]

_ID_ALPHABET = string.ascii_letters + string.digits

LEFT_ROOM = "agent worker left the room"


class WorkerKey(NamedTuple):
    """What must match exactly between a job and a worker."""

    agent_name: str
    namespace: str
    job_type: JobType
    deployment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a dispatch asks for, before it is one."""

    agent_name: str = ""
    metadata: str = field(default="", repr=False)
    deployment: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    restart_policy: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Link:
    """One worker's connection, registered or not yet."""

    connection: ServerConnection
    api_key: str = ""
    worker: WorkerRecord | None = None
    offers: dict[str, _Launch] = field(default_factory=dict[str, "_Launch"])
    closed: bool = False

    @property
    def finished(self) -> bool:
        """True when, once ``data_to_send`` is written, the byte stream is to be closed."""
        return self.connection.finished


@dataclass(slots=True, kw_only=True, eq=False)
class _Room:
    """A live room; a room of the same name that is opened later is another object."""

    message: models_pb.Room
    dispatches: dict[str, DispatchRecord] = field(default_factory=dict[str, DispatchRecord])
    present: dict[str, models_pb.ParticipantInfo] = field(default_factory=dict[str, "models_pb.ParticipantInfo"])
    publishing: dict[str, None] = field(default_factory=dict[str, None])
    agents: dict[str, JobRecord] = field(default_factory=dict[str, JobRecord])
    """Identity → the last job recorded for it; a participant's leaving ends that job."""
    leaving: dict[str, _Deletion] = field(default_factory=dict[str, "_Deletion"])
    """Terminated agents that a deletion waits for."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Launch:
    """A job that is looking for its worker."""

    job: JobRecord
    room: _Room | None
    dispatch: DispatchRecord | None
    key: WorkerKey
    give_up_at: float
    only: Link | None = None
    """A simulated job is offered to the worker that asked for it and to nobody else."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Deletion:
    """A deleted dispatch whose jobs are being ended in turn."""

    room: _Room
    dispatch: DispatchRecord
    queue: list[JobRecord] | None = None
    """None until the launches in progress have come to their end."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Delayed:
    """A launch that waits for ``launch_delay``."""

    start: Callable[[float, float], None]


class DispatchCore:
    """The dispatch server without its sockets."""

    def __init__(
        self,
        *,
        keys: Mapping[str, str],
        rng: random.Random,
        version: str = "",
        region: str = "",
        target_load: float = 0.7,
        launch_delay: float = 0.0,
    ) -> None:
        self._keys = keys
        self._rng = rng
        self._target_load = as_on_the_wire(target_load)
        self._launch_delay = launch_delay
        self.server_info = ServerInfo(
            version=version, protocol=17, agent_protocol=1, region=region, node_id=self._new_id("ND_")
        )
        self.workers: dict[str, WorkerRecord] = {}
        self.jobs: dict[str, JobRecord] = {}
        self._links: dict[str, Link] = {}
        self._groups: dict[WorkerKey, dict[str, Link]] = {}
        self._rooms: dict[str, _Room] = {}
        self._deletions: dict[str, _Deletion] = {}
        self._deadlines: Deadlines[Link | _Launch | _Deletion | _Delayed] = Deadlines()
        self._events: list[DispatchEvent] = []
        self._touched: dict[Link, None] = {}

    # -------------------------------------------------------------------------------------------- worker sockets

    def open(self, now: float, wall: float) -> Link:
        """A new socket of somebody who says to be a worker."""
        link = Link(connection=SignalConnection.server(now=now, wall=wall))
        self._touch(link)
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
        return self._deadlines.next()

    def handle_timeout(self, now: float, wall: float) -> None:
        """Act on what is due.  Spurious calls are harmless."""
        while (due := self._deadlines.pop_due(now)) is not None:
            match due:
                case Link():
                    due.connection.handle_timeout(now)
                    self._hear(due, now, wall)
                case _Launch():
                    self._lose(due, "no answer in time", now, wall)
                case _Deletion():
                    self._removal_due(due, now, wall)
                case _Delayed():
                    due.start(now, wall)

    def take_events(self) -> list[DispatchEvent]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def take_touched(self) -> list[Link]:
        """Links that may have something to send, or may have finished, since the last call."""
        touched, self._touched = self._touched, {}
        return list(touched)

    # ----------------------------------------------------------------------------------------------------- rooms

    def room_opened(self, room: models_pb.Room, agents: Iterable[Order], now: float, wall: float) -> None:
        """A room exists.  ``agents`` is the list given with its creation; empty means the implicit, nameless
        dispatch."""
        state = self._rooms[room.name] = _Room(message=room)
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
        job = state.agents.pop(identity, None)
        if job is not None and job.phase is JobPhase.RUNNING:
            self._terminate(job, JobStatus.FAILED, LEFT_ROOM, now, wall)
        deletion = state.leaving.pop(identity, None)
        if deletion is not None:
            self._deadlines.stop(deletion)
            self._continue(deletion, now, wall)

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
        self._say(DispatchDeleted(dispatch=dispatch))
        deletion = self._deletions[dispatch.id] = _Deletion(room=state, dispatch=dispatch)
        self._continue(deletion, now, wall)
        return dispatch

    def dispatches(self, room: str) -> list[DispatchRecord]:
        """A live room's dispatches, oldest first.  Raises KeyError for a room that is not live."""
        return list(self._rooms[room].dispatches.values())

    def _add(self, room: _Room, order: Order, now: float, wall: float) -> DispatchRecord:
        if len(room.dispatches) >= DISPATCHES_PER_ROOM_MAX:
            raise ResourceExhaustedError(
                "too many dispatches in this room",
                resource="dispatches",
                used=len(room.dispatches),
                limit=DISPATCHES_PER_ROOM_MAX,
            )
        dispatch = DispatchRecord(
            id=self._new_id("AD_"),
            room=room.message.name,
            agent_name=order.agent_name,
            metadata=order.metadata,
            deployment=order.deployment,
            attributes=dict(order.attributes),
            restart_policy=order.restart_policy,
            created_at=wall,
        )
        room.dispatches[dispatch.id] = dispatch
        self._say(DispatchCreated(dispatch=dispatch))
        if not any(_serves(key, dispatch) for key in self._groups):
            self._say(JobLost(dispatch=dispatch, job=None, reason="no worker is registered for it"))
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
        room: _Room,
        dispatch: DispatchRecord,
        job_type: JobType,
        participant: models_pb.ParticipantInfo | None,
        now: float,
        wall: float,
    ) -> None:
        """One job for each namespace that has workers of the key, now or after ``launch_delay``."""

        def start(now: float, wall: float) -> None:
            dispatch.launching -= 1
            keys = [key for key in self._groups if key.job_type is job_type and _serves(key, dispatch)]
            for key in keys:
                self._launch_job(room, dispatch, key, participant, now, wall)
            self._launched(dispatch, now, wall)

        dispatch.launching += 1
        if self._launch_delay > 0:
            self._deadlines.set(_Delayed(start=start), now + self._launch_delay)
        else:
            start(now, wall)

    def _launch_job(
        self,
        room: _Room,
        dispatch: DispatchRecord,
        key: WorkerKey,
        participant: models_pb.ParticipantInfo | None,
        now: float,
        wall: float,
    ) -> None:
        job = self._new_job(key, room.message.name, dispatch, participant, wall)
        job.message = job_message(job, dispatch, room.message, participant)
        launch = _Launch(job=job, room=room, dispatch=dispatch, key=key, give_up_at=now + OFFER_BUDGET)
        dispatch.launching += 1
        loads = [link.worker.load for link in self._groups[key].values() if link.worker and not link.worker.full]
        if bid(loads, self._target_load) > 0:
            self._offer_next(launch, now, wall)
        else:
            self._lose(launch, "no worker is available below the target load", now, wall)

    def _new_job(
        self,
        key: WorkerKey,
        room: str,
        dispatch: DispatchRecord | None,
        participant: models_pb.ParticipantInfo | None,
        wall: float,
    ) -> JobRecord:
        job = JobRecord(
            id=self._new_id("AJ_"),
            type=key.job_type,
            room=room,
            agent_name=key.agent_name,
            namespace=key.namespace,
            deployment=key.deployment,
            dispatch_id=dispatch.id if dispatch else "",
            participant=participant.identity if participant is not None else "",
            created_at=wall,
        )
        self.jobs[job.id] = job
        self._forget_oldest()
        return job

    def _forget_oldest(self) -> None:
        """Keep the record bounded; only jobs that are over may go."""
        while len(self.jobs) > SERVER_JOBS_MAX:
            live = (JobPhase.OFFERED, JobPhase.RUNNING)
            over = next((job_id for job_id, job in self.jobs.items() if job.phase not in live), None)
            if over is None:
                return
            del self.jobs[over]

    def _offer_next(self, launch: _Launch, now: float, wall: float) -> None:
        """Ask the next worker, or lose the job."""
        job = launch.job
        link = self._pick(launch)
        if link is None or link.worker is None:
            self._lose(launch, "no worker took it", now, wall)
            return
        worker = link.worker
        job.asked.append(worker.id)
        job.worker_id = worker.id
        job.status = JobStatus.RUNNING
        job.started_at = job.updated_at = wall
        stamp_job(job)
        assert job.message is not None, "a job has its message from its launch on"
        link.offers[job.id] = launch
        self._deadlines.set(launch, launch.give_up_at)
        link.connection.offer(job.message, now)
        self._touch(link)
        self._say(JobOffered(job=job, worker=worker))

    def _pick(self, launch: _Launch) -> Link | None:
        if launch.only is not None:
            return None if launch.job.asked or launch.only.finished else launch.only
        candidates = [
            (link, link.worker.load)
            for link in self._groups.get(launch.key, {}).values()
            if link.worker and not link.finished and not link.worker.full and link.worker.id not in launch.job.asked
        ]
        return choose(candidates, self._rng)

    def _lose(self, launch: _Launch, reason: str, now: float, wall: float) -> None:
        """Nobody takes the job.  An answer that still comes finds no offer and is ignored."""
        link = self._links.get(launch.job.worker_id)
        if link is not None and link.offers.pop(launch.job.id, None) is not None:
            link.connection.withdraw(launch.job.id, now)
        launch.job.phase = JobPhase.LOST
        self._say(JobLost(dispatch=launch.dispatch, job=launch.job, reason=reason))
        self._settle(launch, now, wall)

    def _settle(self, launch: _Launch, now: float, wall: float) -> None:
        """A launch came to its end, one way or the other."""
        self._deadlines.stop(launch)
        if launch.dispatch is not None:
            launch.dispatch.launching -= 1
            self._launched(launch.dispatch, now, wall)

    def _launched(self, dispatch: DispatchRecord, now: float, wall: float) -> None:
        deletion = self._deletions.get(dispatch.id)
        if deletion is not None:
            self._continue(deletion, now, wall)

    # ----------------------------------------------------------------------------------------- ends of the server's

    def _continue(self, deletion: _Deletion, now: float, wall: float) -> None:
        """End the jobs of a deleted dispatch, each only when the one before it is out of its room."""
        if deletion.queue is None:
            if deletion.dispatch.launching:
                return
            deletion.queue = list(deletion.dispatch.jobs)
        while deletion.queue:
            job = deletion.queue.pop(0)
            if job.phase is not JobPhase.RUNNING:
                continue
            self._terminate(job, JobStatus.SUCCESS, "dispatch deleted", now, wall)
            if job.identity in deletion.room.present:
                deletion.room.leaving[job.identity] = deletion
                self._deadlines.set(deletion, now + TERMINATED_REMOVAL_TIME)
                return
        self._deletions.pop(deletion.dispatch.id, None)

    def _removal_due(self, deletion: _Deletion, now: float, wall: float) -> None:
        """The agent did not leave in time; the room's keeper removes it, and the next job's turn has come."""
        for identity, waiting in list(deletion.room.leaving.items()):
            if waiting is deletion:
                del deletion.room.leaving[identity]
                self._say(ParticipantRemovalDue(room=deletion.dispatch.room, identity=identity))
        self._continue(deletion, now, wall)

    def _terminate(self, job: JobRecord, status: JobStatus, error: str, now: float, wall: float) -> None:
        """Tell the worker to stop, and record the end at once: nothing the worker says later changes it."""
        link = self._links.get(job.worker_id)
        if link is None or link.worker is None or link.finished:
            return
        link.worker.jobs.pop(job.id, None)
        link.connection.terminate(job.id, now)
        self._touch(link)
        self._say(JobTerminated(job=job, reason=error))
        self._end(job, status, error if status is JobStatus.FAILED else "", wall)

    def _end(self, job: JobRecord, status: int, error: str, wall: float) -> None:
        job.phase = JobPhase.ENDED
        job.status, job.error = status, error
        job.updated_at = job.ended_at = wall
        self._say(JobEnded(job=job, status=status, error=error))

    # ---------------------------------------------------------------------------------------- what workers say

    def _hear(self, link: Link, now: float, wall: float) -> None:
        """Act on everything a link's connection has to say."""
        handlers = self._HANDLERS
        while events := link.connection.events():
            for event in events:
                handler = handlers.get(type(event))
                if handler is not None:
                    handler(self, link, event, now, wall)
        self._touch(link)

    def _on_upgrade(self, link: Link, event: UpgradeRequested, now: float, wall: float) -> None:
        verdict = judge_upgrade(event.method, event.headers, event.query, self._keys, wall=wall)
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
            id=self._new_id("AW_"),
            agent_name=registration.agent_name,
            namespace=registration.namespace,
            job_type=JobType(registration.job_type),
            deployment=registration.deployment,
            version=registration.version,
            api_key=link.api_key,
            permissions=registration.permissions,
        )
        link.worker = worker
        self.workers[worker.id] = worker
        self._links[worker.id] = link
        self._groups.setdefault(_key(worker), {})[worker.id] = link
        link.connection.registered(worker.id, self.server_info, now)
        self._say(WorkerRegistered(worker=worker))

    def _on_worker_status(self, link: Link, event: WorkerStatusReceived, now: float, wall: float) -> None:
        worker = link.worker
        if worker is None:
            return
        worker.load = event.load
        worker.draining = event.draining
        if event.full is not None:
            worker.full = event.full
        # An open-source server knows no draining; a worker that says so means FULL.
        worker.full = worker.full or event.draining
        self._say(WorkerStatusChanged(worker=worker))

    def _on_availability(self, link: Link, event: AvailabilityReceived, now: float, wall: float) -> None:
        launch = link.offers.get(event.job_id)
        worker = link.worker
        if launch is None or worker is None or link.finished:
            # With the connection gone the offer goes to the next worker, when the end is heard.
            self._tolerate(link, "availability", "no offer of this job is open")
            return
        if now >= launch.give_up_at:
            self._lose(launch, "no answer in time", now, wall)
            return
        del link.offers[event.job_id]
        job = launch.job
        if event.terminate:
            self._say(JobDeclined(job=job, worker=worker, terminate=True))
            self._end(job, JobStatus.SUCCESS, "", wall)
            self._record(launch)
            self._settle(launch, now, wall)
        elif event.available:
            self._assign(link, worker, launch, event.metadata, now, wall)
        else:
            self._say(JobDeclined(job=job, worker=worker, terminate=False))
            self._offer_next(launch, now, wall)

    def _assign(
        self, link: Link, worker: WorkerRecord, launch: _Launch, metadata: JobMetadata, now: float, wall: float
    ) -> None:
        job = launch.job
        token = agent_token(
            worker.api_key,
            self._keys[worker.api_key],
            wall=wall,
            room=job.room,
            metadata=metadata,
            agent_name=worker.agent_name,
            permissions=worker.permissions,
        )
        job.identity = metadata.participant_identity
        job.phase = JobPhase.RUNNING
        worker.jobs[job.id] = job
        stamp_job(job)
        self._record(launch)
        assert job.message is not None, "a job has its message from its launch on"
        link.connection.assign(job.message, token, now)
        self._touch(link)
        self._say(JobAssigned(job=job, worker=worker))
        self._settle(launch, now, wall)

    def _record(self, launch: _Launch) -> None:
        """Enter a launched job in its dispatch, and the participant it will appear as in its room."""
        stamp_job(launch.job)
        if launch.dispatch is not None:
            launch.dispatch.jobs.append(launch.job)
        if launch.room is not None and launch.job.identity:
            launch.room.agents[launch.job.identity] = launch.job

    def _on_job_status(self, link: Link, event: JobStatusReceived, now: float, wall: float) -> None:
        job = link.worker.jobs.get(event.job_id) if link.worker else None
        if job is None or link.worker is None:
            self._tolerate(link, "job status", "the job does not run on this connection")
            return
        job.history.append(StatusUpdate(status=event.status, error=event.error, wall=wall))
        job.status, job.error, job.updated_at = event.status, event.error, wall
        self._say(JobStatusChanged(job=job, status=event.status, error=event.error))
        if event.status in (JobStatus.SUCCESS, JobStatus.FAILED):
            del link.worker.jobs[job.id]
            self._end(job, event.status, event.error, wall)

    def _on_simulate(self, link: Link, event: SimulateReceived, now: float, wall: float) -> None:
        worker = link.worker
        if worker is None or link.finished:
            return
        if event.room is None:
            # Accepting such a job crashes the real server; it cannot be assigned, so it is not made.
            self._tolerate(link, "simulate", "no room is named")
            return
        participant = participant_from_info(event.participant) if event.participant is not None else None
        job_type = JobType.PUBLISHER if participant is not None else JobType.ROOM
        key = WorkerKey(worker.agent_name, worker.namespace, job_type, worker.deployment)
        job = self._new_job(key, event.room.name, None, participant, wall)
        job.message = job_message(job, None, room_from_info(event.room), participant)
        give_up_at = now + SIMULATED_OFFER_BUDGET
        launch = _Launch(job=job, room=None, dispatch=None, key=key, give_up_at=give_up_at, only=link)
        self._offer_next(launch, now, wall)

    def _on_skipped(self, link: Link, event: MessageSkipped, now: float, wall: float) -> None:
        self._tolerate(link, event.kind, event.reason)

    def _on_closed(self, link: Link, event: ConnectionClosed, now: float, wall: float) -> None:
        link.closed = True
        self._deadlines.stop(link)
        worker = link.worker
        if worker is None:
            return
        del self.workers[worker.id], self._links[worker.id]
        group = self._groups[_key(worker)]
        del group[worker.id]
        if not group:
            del self._groups[_key(worker)]
        link.worker = None
        for job in worker.jobs.values():
            job.phase = JobPhase.FORGOTTEN
            self._say(JobForgotten(job=job))
        self._say(WorkerGone(worker=worker, reason=event.reason or f"connection closed ({event.code})"))
        offers, link.offers = link.offers, {}
        for launch in offers.values():
            self._offer_next(launch, now, wall)

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
        link = self._links.get(worker_id)
        if link is None:
            return False
        act(link.connection)
        self._hear(link, now, wall)
        return True

    def _touch(self, link: Link) -> None:
        self._touched[link] = None
        self._deadlines.set(link, math.inf if link.closed and link.finished else link.connection.next_deadline())

    def _say(self, event: DispatchEvent) -> None:
        self._events.append(event)

    def _tolerate(self, link: Link, kind: str, reason: str) -> None:
        worker_id = link.worker.id if link.worker else ""
        self._say(MessageTolerated(worker_id=worker_id, kind=kind, reason=reason))

    def _new_id(self, prefix: str) -> str:
        return prefix + "".join(self._rng.choices(_ID_ALPHABET, k=12))


def _key(worker: WorkerRecord) -> WorkerKey:
    return WorkerKey(worker.agent_name, worker.namespace, worker.job_type, worker.deployment)


def _serves(key: WorkerKey, dispatch: DispatchRecord) -> bool:
    return key.agent_name == dispatch.agent_name and key.deployment == dispatch.deployment
