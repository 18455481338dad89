"""S1 to S9: tasks, scopes and what is left behind.  Pure: layer 2.

Some of these promises are about source text (no create_task, a shield has a deadline).  What is evaluated here is what
a run shows of them; tests/test_architecture.py reads the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._bounds import CLOSE_TIMEOUT, FLUSH_TIMEOUT, ROOM_LEAVE_TIMEOUT
from ._history import ENDINGS, NOT_BACK, STUCK, JobStory, LifeStory
from ._judge import Checker, Jury
from ._trace import Note

__all__ = ["STRUCTURE"]


class S1_nothing_left(Checker):
    """After the run nothing is left: no task, no open stream, no thread, no agent in a room."""

    watches = ("end", "crash", "act")

    def look(self, note: Note) -> None:
        if note.what == "crash":
            self.judge(False, f"the run did not come to its end: {note.kind}")
        elif note.what == "act":
            if note.kind == "not converged":
                self.judge(False, "a worker was neither registered nor ended within the bound after the heal")
        else:
            for name, left in note.data.items():
                self.judge(left == 0, f"{name}: {left}")


class S2_every_task_has_a_nursery(Checker):
    """No task lives outside a task group: counted now and then, every task's parent is known."""

    watches = ("census",)

    def look(self, note: Note) -> None:
        self.judge(note.data["orphans"] == 0, f"{note.data['orphans']} of {note.data['tasks']} tasks have no parent")


class S3_reasons_are_true(Checker):
    """A job that was cancelled was cancelled for the reason that it reports, and the reason did happen."""

    watches = ("event job_ended",)

    def look(self, note: Note) -> None:
        job = self.history.job(note)
        reason = str(note.data["reason"])
        how = job.out[-1].kind if job.out else ""
        evidence = _EVIDENCE.get(reason.partition(":")[0] if reason.startswith(_NOTED) else reason)
        if evidence is not None:
            self.judge(evidence(job, note), f"{note.job} ended for {reason!r}, and nothing like it happened")
        elif how == "cancelled":
            self.judge(note.data["status"] == "FAILED" and reason != "", f"{note.job} was cancelled for no reason")
        else:
            self.judge(True, "")


def _room_reason(*numbers: int) -> Callable[[JobStory, Note], bool]:
    def happened(job: JobStory, note: Note) -> bool:
        return job.left_reason in numbers

    return happened


def _timed_out(job: JobStory, note: Note) -> bool:
    timeout = job.life.plan.get("job_timeout")
    assert job.assigned_at is not None
    return timeout is not None and note.t > job.assigned_at + float(timeout)


def _lost(job: JobStory, note: Note) -> bool:
    """Given up by the room, or by us when it did not come back in time."""
    if NOT_BACK in str(note.data["reason"]):
        return note.t >= job.given_up_at
    return job.left_reason not in (1, 2, 4, 5, 10)


#: Reasons behind which more may be said.
_NOTED = ("job shut itself", "connection to the room lost")

#: What must be in the trace when a job says that it ended for this.
_EVIDENCE: Mapping[str, Callable[[JobStory, Note], bool]] = {
    "job terminated by the server": lambda job, note: job.terminate_heard_at is not None,
    "worker shut down before the job ended": lambda job, note: (
        note.t > job.life.drain_deadline or any(timeout <= 0 for _, timeout in job.life.stops)
    ),
    "job execution timeout": _timed_out,
    "worker cancelled": lambda job, note: job.life.cancelled_at is not None,
    "job shut itself down": lambda job, note: job.script.get("do") == "shutdown",
    "cancelled by its handler": lambda job, note: job.script.get("do") == "cancel",
    "room closed": _room_reason(5, 10),
    "another participant took the agent's identity": _room_reason(2),
    "agent removed from the room": _room_reason(4),
    "connection to the room lost": _lost,
    STUCK: lambda job, note: not job.plain or bool(job.script.get("cleanup")),
}


class S4_cancellation_is_no_failure(Checker):
    """Cancellation is never swallowed by the SDK and never becomes a job's error."""

    watches = ("event job_ended", "worker ended")

    def look(self, note: Note) -> None:
        if note.what == "event":
            self.judge("Cancelled" not in str(note.data["leaves"]), f"{note.job} failed with {note.data['leaves']}")
        else:
            life = self.history.life(note.who)
            # Cancelled while it was about to return anyway, it may return.
            if life.cancelled_at is not None and not life.stops and not note.data["error"]:
                seen = note.data["cancelled"] is True or life.cancelled_at == note.t
                self.judge(seen, f"{note.who} was cancelled and returned as if it were not")


class S5_every_leaf(Checker):
    """An exception group keeps every leaf.

    That KeyboardInterrupt and SystemExit never end in a job's error is only half shown here: no error names them.  To
    raise one would end the simulation itself, on asyncio inside the loop; tests/runtime does it in a process.
    """

    watches = ("event job_ended",)

    def look(self, note: Note) -> None:
        job = self.history.job(note)
        leaves = note.data["leaves"]
        assert isinstance(leaves, tuple)
        if job.script.get("do") == "group" and job.out and job.out[-1].kind == "raised" and not job.running:
            raised = job.out[-1].data["leaves"]
            assert isinstance(raised, tuple)
            self.judge(set(raised) <= set(leaves), f"{note.job} raised {raised}, {leaves} are left")
        elif leaves:
            self.judge(not {"KeyboardInterrupt", "SystemExit"} & set(leaves), f"{note.job} failed with {leaves}")


class S6_shields_are_bounded(Checker):
    """Every shield ends within the bound that its sentence in the source promises; there is none without a bound."""

    watches = ("shield",)

    def look(self, note: Note) -> None:
        bound = _SHIELDS.get(note.kind)
        if bound is None:
            self.judge(False, f"a shield that nobody has bounded: {note.kind}")
            return
        seconds = note.data["seconds"]
        assert isinstance(seconds, float | int)
        limit = bound(self.history.life(note.who))
        self.judge(seconds <= limit, f"{note.kind} shielded for {seconds:g} s, {limit:g} s promised")


def _job_end(life: LifeStory) -> float:
    plan: Mapping[str, Any] = life.plan
    return float(plan["cancel_grace"]) + float(plan["cleanup_timeout"]) + FLUSH_TIMEOUT + ROOM_LEAVE_TIMEOUT + 0.01


def _end(life: LifeStory) -> float:
    plan: Mapping[str, Any] = life.plan
    # A fatal error or a cancellation cuts the jobs at once: grace, clean-ups, one flush, the goodbye.
    return float(plan["cancel_grace"]) * 2 + float(plan["cleanup_timeout"]) + FLUSH_TIMEOUT + CLOSE_TIMEOUT + 0.01


def _service(life: LifeStory) -> float:
    return float("inf")  # the body of a service group: as long as what it serves, which has its own bound


#: Every shield of the SDK by its function, and how long it may stand.
_SHIELDS: Mapping[str, Callable[[LifeStory], float]] = {
    "runtime._service_group:ServiceGroup._serve": _service,
    "rooms._memory_clock:MemoryClock._serve": _service,
    "runtime._job_end:JobEnd.take": _job_end,
    "runtime._shutdown:Shutdown.end": _end,
    "rooms._room:Room.disconnect": lambda life: ROOM_LEAVE_TIMEOUT,
}


class S7_cleanup_is_shielded(Checker):
    """When start() is cancelled from outside, each job still runs its clean-ups within their budget."""

    watches = ("event job_ended",)

    def look(self, note: Note) -> None:
        job = self.history.job(note)
        life = job.life
        if life.cancelled_at is None or not job.started or job.running or not job.script.get("cleanup"):
            return
        if job.reason == STUCK:
            return  # they come when its task has ended: J4
        needed, budget = float(job.script["cleanup"]), float(life.plan["cleanup_timeout"])
        if needed < budget and job.out and job.out[-1].t >= life.cancelled_at:
            self.judge(set(job.cleaned) == {0, 2}, f"{note.job}: of its clean-ups {job.cleaned} came to their end")


class S8_full_outbox_blocks_nothing(Checker):
    """While the worker cannot write, terminations still cancel at once and pings still come in."""

    watches = ("broken", "hear termination", *(f"handler {kind}" for kind in ENDINGS), "deliver down")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._choked: dict[str, float] = {}
        self._due: dict[tuple[str, str], float] = {}

    def look(self, note: Note) -> None:
        if note.what == "broken":
            if note.kind == "choke":
                self._choked[str(note.data["connection"])] = note.t + float(note.data["seconds"])  # pyright: ignore[reportArgumentType]
        elif note.what == "hear":
            # Behind a Close of ours nothing is heard any more, whether we can write or not.
            if self._choked.get(note.who, -1.0) >= note.t and not note.data.get("unheard"):
                job = self.history.job(note)
                if job.running and job.plain and job.ended_at is None:
                    self._due[job.life.label, note.job] = note.t
        elif note.what == "handler":
            if (due := self._due.pop((note.who, note.job), None)) is not None:
                self.judge(note.t == due, f"{note.job} was cancelled {note.t - due:g} s late, the outbox was full")
        elif self._choked.get(str(note.data["connection"]), -1.0) >= note.t:
            self.judge(True, "")  # pings still come in while nothing goes out

    def finish(self) -> None:
        for _, job in self._due:
            self.judge(False, f"{job} was never cancelled, the outbox was full")


class S9_checkpoints(Checker):
    """Every public async function is a checkpoint and honours cancellation.

    Evaluated for those that a handler and a program can reach here, each called inside a scope that is cancelled
    already: it must not return.
    """

    watches = ("checkpoint",)

    def look(self, note: Note) -> None:
        self.judge(note.data["honoured"] is True, f"{note.kind} does not honour cancellation")


STRUCTURE: tuple[type[Checker], ...] = (
    S1_nothing_left,
    S2_every_task_has_a_nursery,
    S3_reasons_are_true,
    S4_cancellation_is_no_failure,
    S5_every_leaf,
    S6_shields_are_bounded,
    S7_cleanup_is_shielded,
    S8_full_outbox_blocks_nothing,
    S9_checkpoints,
)
