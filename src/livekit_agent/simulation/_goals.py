"""What a set of seeds must have reached at least once: a search that never gets somewhere proves nothing about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ._scenario import FAULT_KINDS, STATES
from ._trace import Note

__all__ = ["GOALS", "reached"]

_PAIRED = ("reset", "restart", "hang")

#: Every goal.  A goal is reached when ``reached`` yields it.
GOALS: tuple[str, ...] = (
    *(f"fault: {kind}" for kind in FAULT_KINDS),
    # A worker in backoff has no connection that could be reset or hang.
    *(f"{kind} while {state}" for kind in _PAIRED for state in STATES if state != "backoff" or kind == "restart"),
    "a status was lost and sent again",
    "two ends at one instant",
    "a job was stuck",
    "a drain ended by itself",
    "a drain cut a job",
    "an assignment was refused",
)


def reached(notes: Sequence[Note]) -> Iterator[str]:
    """The goals that a run reached, some more than once."""
    finals: dict[str, str] = {}
    last_end: Note | None = None
    for note in notes:
        if note.what == "fault":
            yield f"fault: {note.kind}"
            states = note.data.get("states")
            if note.kind in _PAIRED and isinstance(states, tuple):
                for state in states:
                    yield f"{note.kind} while {state}"
        elif note.what == "say" and note.kind == "job_status" and note.data["status"] in ("SUCCESS", "FAILED"):
            if finals.get(note.job, note.who) != note.who:
                yield "a status was lost and sent again"
            finals[note.job] = note.who
            if "had not accepted" in str(note.data["error"]):
                yield "an assignment was refused"
        elif note.what == "handler" and note.kind in ("returned", "raised", "cancelled"):
            if last_end is not None and last_end.t == note.t and last_end.job != note.job:
                yield "two ends at one instant"
            last_end = note
        elif note.what == "worker" and note.kind == "ended":
            if note.data["stuck"]:
                yield "a job was stuck"
            if note.data["drained"]:
                yield "a drain ended by itself"
            if note.data["cut"]:
                yield "a drain cut a job"
