"""How a job's end is judged: pure, one table of reasons and one function.

A job ends because its handler returned or raised, or because the SDK cancelled it for a reason.  The status on the
wire, its text and the error on ``JobEnded`` follow from those two alone, so that completion, termination and deadlines
in the same instant cannot disagree (docs/design/cancellation.md, first table).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import anyio

from .._errors import JobTerminated, JobTimeoutError, printable
from .._types import CancelReason, JobStatus

__all__ = ["Outcome", "error_text", "judge", "only_leaf", "sort_out"]

#: Reasons that are a normal end unless the handler raised an error of its own; every other reason is FAILED.
_NORMAL_ENDS = (CancelReason.TERMINATED, CancelReason.ROOM_CLOSED, CancelReason.SHUTDOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A job's end."""

    status: JobStatus
    text: str = ""
    """The error text on the wire; empty for SUCCESS."""
    reason: str = ""
    """Why it ended, for people; empty for a handler that returned."""
    error: BaseException | None = None


def judge(
    *,
    job_id: str,
    error: Exception | None,
    reason: CancelReason | None,
    note: str = "",
    cancelled_by_user: bool = False,
    interrupt: BaseException | None = None,
) -> Outcome:
    """The outcome of a job.

    ``error`` is what the handler raised, cancellation left out; ``reason`` why the SDK cancelled it, before it ended;
    ``note`` words to add to the reason; ``interrupt`` a KeyboardInterrupt or SystemExit that went through it.
    """
    if interrupt is not None:
        text = CancelReason.WORKER_INTERRUPTED.value
        return Outcome(status=JobStatus.FAILED, text=text, reason=text, error=interrupt)
    if reason is CancelReason.JOB_TIMEOUT:
        timeout = JobTimeoutError(job_id=job_id)
        timeout.__cause__ = error
        return Outcome(status=JobStatus.FAILED, text=reason.value, reason=reason.value, error=timeout)
    if reason is not None and reason not in _NORMAL_ENDS:
        ended = JobTerminated(reason.value, job_id=job_id)
        return Outcome(
            status=JobStatus.FAILED, text=reason.value, reason=_with_note(reason.value, note), error=error or ended
        )
    if error is not None:
        text = error_text(error)
        return Outcome(status=JobStatus.FAILED, text=text, reason=text, error=error)
    if reason is not None:
        return Outcome(status=JobStatus.SUCCESS, reason=_with_note(reason.value, note))
    return Outcome(status=JobStatus.SUCCESS, reason="cancelled by its handler" if cancelled_by_user else "")


def error_text(error: BaseException) -> str:
    """Type and first line, for the wire: no traceback, no secrets, one line."""
    leaf = only_leaf(error)
    try:
        text = str(leaf)
    except Exception:
        # The user's own __str__, at the job's boundary: an error that cannot be told is told by its type.
        text = ""
    first_line = next(iter(text.splitlines()), "")
    return printable(f"{type(leaf).__name__}: {first_line}" if first_line else type(leaf).__name__, 500)


def only_leaf(error: BaseException) -> BaseException:
    """The one exception inside nested groups; the group itself when there are several."""
    while isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if len(members) != 1:
            break
        error = members[0]
    return cast("BaseException", error)


def _with_note(reason: str, note: str) -> str:
    return f"{reason}: {printable(note, 200)}" if note else reason


def sort_out(
    raised: BaseException | None,
) -> tuple[BaseException | None, BaseException | None, Exception | None]:
    """What came out of user code, as (cancellation, interrupt, error)."""
    if raised is None:
        return None, None, None
    cancelled_class = anyio.get_cancelled_exc_class()
    if isinstance(raised, cancelled_class):
        return raised, None, None
    if not isinstance(raised, BaseExceptionGroup):
        return (None, None, raised) if isinstance(raised, Exception) else (None, raised, None)
    cancelled, rest = cast("BaseExceptionGroup[BaseException]", raised).split(cancelled_class)
    if rest is None:
        return cancelled, None, None
    interrupts, errors = rest.split(_is_interrupt)
    interrupt = None if interrupts is None else only_leaf(interrupts)
    if errors is None:
        return cancelled, interrupt, None
    error = only_leaf(errors)
    assert isinstance(error, Exception)
    return cancelled, interrupt, error


def _is_interrupt(exc: BaseException) -> bool:
    return not isinstance(exc, Exception | BaseExceptionGroup)
