"""Jobs in search of a worker: asked one after the other, within one budget, until one takes it or nobody does.

A launch ends in one of four ways, each exactly once, and then the dispatch that waits for its launches is told:
assigned; ended by a worker's ``terminate`` (for all workers, as a success); lost, because nobody is left to ask;
lost, because the one asked kept silent.  Nothing is queued for workers that come later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._bounds import OFFER_BUDGET, SERVER_JOBS_MAX, SIMULATED_OFFER_BUDGET
from .._types import JobMetadata, JobStatus, JobType
from ..protocol import AvailabilityReceived, SimulateReceived, agent_token
from ._endings import Endings
from ._events import (
    DispatchRecord,
    JobAssigned,
    JobDeclined,
    JobLost,
    JobOffered,
    JobPhase,
    JobRecord,
    WorkerRecord,
)
from ._messages import job_message, participant_from_info, room_from_info, stamp_job
from ._selection import bid, choose
from ._state import Book, Launch, Link, LiveRoom, WorkerKey

if TYPE_CHECKING:
    from livekit.protocol import models as models_pb

__all__ = ["Launches"]


class Launches:
    """Looks for workers.  ``settled`` is told when a dispatch has one launch less in progress."""

    def __init__(
        self,
        book: Book,
        endings: Endings,
        *,
        target_load: float,
        rooms_url: str,
        settled: Callable[[DispatchRecord, float, float], None],
    ) -> None:
        self._book = book
        self._endings = endings
        self._target_load = target_load
        self._rooms_url = rooms_url
        self._settled = settled

    def start(
        self,
        room: LiveRoom,
        dispatch: DispatchRecord,
        key: WorkerKey,
        participant: models_pb.ParticipantInfo | None,
        now: float,
        wall: float,
    ) -> None:
        """Begin to look for the worker of one job of a dispatch, among those of ``key``."""
        job = self._new_job(key, room.message.name, dispatch, participant, wall)
        job.message = job_message(job, dispatch, room.message, participant)
        launch = Launch(job=job, room=room, dispatch=dispatch, key=key, give_up_at=now + OFFER_BUDGET)
        dispatch.launching += 1
        workers = [link.worker for link in self._book.groups[key].values() if link.worker]
        loads = [worker.load for worker in workers if worker.available]
        if bid(loads, self._target_load) > 0:
            self.offer_next(launch, now, wall)
        else:
            full = f"{len(workers) - len(loads)} of {len(workers)} full"
            self.lose(launch, f"no worker is available below the target load ({full})", now, wall)

    def simulate(self, link: Link, worker: WorkerRecord, request: SimulateReceived, now: float, wall: float) -> None:
        """Offer a made-up job to the worker that asked for one, and to nobody else."""
        assert request.room is not None, "the caller has looked"
        participant = participant_from_info(request.participant) if request.participant is not None else None
        job_type = JobType.PUBLISHER if participant is not None else JobType.ROOM
        key = WorkerKey.of(worker)._replace(job_type=job_type)
        job = self._new_job(key, request.room.name, None, participant, wall)
        job.message = job_message(job, None, room_from_info(request.room), participant)
        give_up_at = now + SIMULATED_OFFER_BUDGET
        self.offer_next(Launch(job=job, room=None, dispatch=None, key=key, give_up_at=give_up_at, only=link), now, wall)

    def answered(self, link: Link, event: AvailabilityReceived, now: float, wall: float) -> bool:
        """A worker's answer.  False when it answers nothing: too late, twice, or from a connection that is gone."""
        launch = link.offers.get(event.job_id)
        worker = link.worker
        if launch is None or worker is None or link.finished:
            # With the connection gone the offer goes to the next worker, when the end is heard.
            return False
        if now >= launch.give_up_at:
            self.lose(launch, "no answer in time", now, wall)
            return False
        del link.offers[event.job_id]
        job = launch.job
        if event.terminate:
            self._book.say(JobDeclined(job=job, worker=worker, terminate=True))
            self._endings.end(job, JobStatus.SUCCESS, "", wall)
            self._record(launch)
            self._settle(launch, now, wall)
        elif event.available:
            self._assign(link, worker, launch, event.metadata, now, wall)
        else:
            self._book.say(JobDeclined(job=job, worker=worker, terminate=False))
            self.offer_next(launch, now, wall)
        return True

    def offer_next(self, launch: Launch, now: float, wall: float) -> None:
        """Ask the next worker, or lose the job."""
        job = launch.job
        link = self._pick(launch)
        if link is None or link.worker is None:
            self.lose(launch, "no worker took it", now, wall)
            return
        worker = link.worker
        job.asked.append(worker.id)
        job.worker_id = worker.id
        job.status = JobStatus.RUNNING
        job.started_at = job.updated_at = wall
        stamp_job(job)
        assert job.message is not None, "a job has its message from its launch on"
        link.offers[job.id] = launch
        self._book.deadlines.set(launch, launch.give_up_at)
        link.connection.offer(job.message, now)
        self._book.touch(link)
        self._book.say(JobOffered(job=job, worker=worker))

    def lose(self, launch: Launch, reason: str, now: float, wall: float) -> None:
        """Nobody takes the job.  An answer that still comes finds no offer and is ignored."""
        link = self._book.links.get(launch.job.worker_id)
        if link is not None and link.offers.pop(launch.job.id, None) is not None:
            link.connection.withdraw(launch.job.id, now)
        launch.job.phase = JobPhase.LOST
        self._book.say(JobLost(dispatch=launch.dispatch, job=launch.job, reason=reason))
        self._settle(launch, now, wall)

    def _pick(self, launch: Launch) -> Link | None:
        if launch.only is not None:
            return None if launch.job.asked or launch.only.finished else launch.only
        candidates = [
            (link, link.worker.load)
            for link in self._book.groups.get(launch.key, {}).values()
            if link.worker and not link.finished and link.worker.available and link.worker.id not in launch.job.asked
        ]
        return choose(candidates, self._book.rng)

    def _assign(
        self, link: Link, worker: WorkerRecord, launch: Launch, metadata: JobMetadata, now: float, wall: float
    ) -> None:
        job = launch.job
        token = agent_token(
            worker.api_key,
            self._book.keys[worker.api_key],
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
        link.connection.assign(job.message, token, now, self._rooms_url)
        self._book.touch(link)
        self._book.say(JobAssigned(job=job, worker=worker))
        self._settle(launch, now, wall)

    def _record(self, launch: Launch) -> None:
        """Enter a launched job in its dispatch, and the participant it will appear as in its room."""
        stamp_job(launch.job)
        room, dispatch, job = launch.room, launch.dispatch, launch.job
        # What is forgotten elsewhere, or over, goes here too; not each time, for it costs as much as there is.
        if dispatch is not None:
            dispatch.jobs.append(job)
            if len(dispatch.jobs) > 2 * SERVER_JOBS_MAX:
                dispatch.jobs[:] = [each for each in dispatch.jobs if each.id in self._book.jobs]
        if room is not None and job.identity:
            room.agents[job.identity] = job
            if len(room.agents) > 2 * SERVER_JOBS_MAX:
                room.agents = {name: each for name, each in room.agents.items() if each.phase is JobPhase.RUNNING}

    def _settle(self, launch: Launch, now: float, wall: float) -> None:
        """A launch came to its end, one way or the other."""
        self._book.deadlines.stop(launch)
        if launch.dispatch is not None:
            launch.dispatch.launching -= 1
            self._settled(launch.dispatch, now, wall)

    def _new_job(
        self,
        key: WorkerKey,
        room: str,
        dispatch: DispatchRecord | None,
        participant: models_pb.ParticipantInfo | None,
        wall: float,
    ) -> JobRecord:
        job = JobRecord(
            id=self._book.new_id("AJ_"),
            type=key.job_type,
            room=room,
            agent_name=key.agent_name,
            namespace=key.namespace,
            deployment=key.deployment,
            dispatch_id=dispatch.id if dispatch else "",
            participant=participant.identity if participant is not None else "",
            created_at=wall,
        )
        self._book.jobs[job.id] = job
        self._forget_oldest()
        return job

    def _forget_oldest(self) -> None:
        """Keep the record bounded; only jobs that are over may go."""
        while len(self._book.jobs) > SERVER_JOBS_MAX:
            live = (JobPhase.OFFERED, JobPhase.RUNNING)
            over = next((job_id for job_id, job in self._book.jobs.items() if job.phase not in live), None)
            if over is None:
                return
            del self._book.jobs[over]
