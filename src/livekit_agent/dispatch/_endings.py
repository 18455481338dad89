"""Ends of jobs that the server brings about: a dispatch deleted, an agent gone from its room.

A deleted dispatch ends its jobs *in turn*: the worker is told, the job is a success from that moment on, and only
when its agent has left the room (after 3 s it is removed) comes the next one.  It waits for its launches in progress
first, so a job accepted after the deletion is assigned and terminated at once.  A job that its worker has ended
already, or whose worker is gone, is passed over, and its participant stays.
"""

from __future__ import annotations

from .._bounds import TERMINATED_REMOVAL_TIME
from .._types import JobStatus
from ..protocol import Input
from ._events import DispatchRecord, JobEnded, JobPhase, JobRecord, JobTerminated, ParticipantRemovalDue
from ._state import Book, Deletion, LiveRoom

__all__ = ["LEFT_ROOM", "Endings"]

LEFT_ROOM = "agent worker left the room"


class Endings:
    """Ends jobs."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._deletions: dict[str, Deletion] = {}

    def delete(self, room: LiveRoom, dispatch: DispatchRecord, now: float, wall: float) -> None:
        """Begin to end the jobs of a dispatch that has been taken from its room."""
        deletion = self._deletions[dispatch.id] = Deletion(room=room, dispatch=dispatch)
        self.proceed(deletion, now, wall)

    def launch_settled(self, dispatch: DispatchRecord, now: float, wall: float) -> None:
        """One launch of a dispatch less is in progress."""
        deletion = self._deletions.get(dispatch.id)
        if deletion is not None:
            self.proceed(deletion, now, wall)

    def participant_gone(self, room: LiveRoom, identity: str, now: float, wall: float) -> None:
        """Somebody left a room: an agent whose job has failed by that, an agent that was waited for, or neither."""
        job = room.agents.pop(identity, None)
        if job is not None and job.phase is JobPhase.RUNNING:
            self.terminate(job, JobStatus.FAILED, LEFT_ROOM, now, wall)
        deletion = room.leaving.pop(identity, None)
        if deletion is not None:
            self._book.deadlines.stop(deletion)
            self.proceed(deletion, now, wall)

    def proceed(self, deletion: Deletion, now: float, wall: float) -> None:
        """End the jobs of a deleted dispatch, each only when the one before it is out of its room."""
        if deletion.queue is None:
            if deletion.dispatch.launching:
                return
            deletion.queue = list(deletion.dispatch.jobs)
        while deletion.queue:
            job = deletion.queue.pop(0)
            if job.phase is not JobPhase.RUNNING:
                continue
            told = self.terminate(job, JobStatus.SUCCESS, "dispatch deleted", now, wall)
            if told and job.identity in deletion.room.present:
                deletion.room.leaving[job.identity] = deletion
                self._book.deadlines.set(deletion, now + TERMINATED_REMOVAL_TIME)
                return
        self._deletions.pop(deletion.dispatch.id, None)

    def removal_due(self, deletion: Deletion, now: float, wall: float) -> None:
        """The agent did not leave in time; the room's keeper removes it, and the next job's turn has come."""
        for identity, waiting in list(deletion.room.leaving.items()):
            if waiting is deletion:
                del deletion.room.leaving[identity]
                self._book.say(ParticipantRemovalDue(room=deletion.dispatch.room, identity=identity))
        self.proceed(deletion, now, wall)

    def terminate(self, job: JobRecord, status: JobStatus, error: str, now: float, wall: float) -> bool:
        """Tell the worker to stop, and record the end at once: nothing the worker says later changes it.

        False, with nothing done, when the worker's own last word has arrived already and only waits to be heard: its
        end of the job, or of the connection.
        """
        link = self._book.links.get(job.worker_id)
        if link is None or link.worker is None or link.finished:
            return False
        record = link.connection.book.get(job.id)
        if record is None or not record.allows(Input.TERMINATE):
            return False
        link.worker.jobs.pop(job.id, None)
        link.connection.terminate(job.id, now)
        self._book.touch(link)
        self._book.say(JobTerminated(job=job, reason=error))
        self.end(job, status, error if status is JobStatus.FAILED else "", wall)
        return True

    def end(self, job: JobRecord, status: int, error: str, wall: float) -> None:
        """Record a job's end."""
        job.phase = JobPhase.ENDED
        job.status, job.error = status, error
        job.updated_at = job.ended_at = wall
        self._book.say(JobEnded(job=job, status=status, error=error))
