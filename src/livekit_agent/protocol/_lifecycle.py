"""A worker across its connections: whether to try again, and when.

Pure: the random generator comes from outside, time is an argument.

Backoff is "full jitter": uniform in [0, min(cap, base * 2**n)].  It is reset by a registration that *lasted*, not by
the register response: a server that registers a worker and drops it at once (two workers whose names collide on its
internal bus do this to each other for ever) would otherwise be hammered.

Refused tokens.  At the first connect a 401 or 403 is fatal after one retry with a fresh token (the clock may have moved
between minting and checking).  Later, with jobs running, the worker takes no new ones and keeps trying so that their
statuses get out; when the last job has ended the refusal is fatal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .._bounds import BACKOFF_BASE, BACKOFF_CAP, LASTING_REGISTRATION, RETRY_AFTER_MAX
from .._errors import AgentError, AuthenticationError, ConnectionLostError, HandshakeError

__all__ = ["Backoff", "GiveUp", "Lifecycle", "Retry"]

#: Registrations in a row that did not last before the worker names the pattern.
_FLAPS_WORTH_TELLING = 3

_FLAP_HINT = (
    "registered, then dropped at once, again and again: does another worker use a name, namespace or deployment that "
    "collides with this one's on the server (name 'a_b' and name 'a' with deployment 'b' do)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again after ``delay`` seconds.  ``hint`` is worth logging when there is one."""

    delay: float
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Do not try again; ``error`` is what start raises."""

    error: Exception


class Backoff:
    """Full-jitter delays, in seconds."""

    def __init__(self, rng: random.Random, *, base: float = BACKOFF_BASE, cap: float = BACKOFF_CAP) -> None:
        self._rng = rng
        self._base = base
        self._cap = cap
        self._attempt = 0

    def bound(self) -> float:
        """What the next delay cannot exceed."""
        # 2**63 is far beyond any cap and still a float.
        return min(self._cap, self._base * 2.0 ** min(self._attempt, 63))

    def next_delay(self) -> float:
        """Draw a delay and widen the range."""
        delay = self._rng.uniform(0.0, self.bound())
        self._attempt += 1
        return delay

    def reset(self) -> None:
        """Start over."""
        self._attempt = 0


class Lifecycle:
    """Counts failures and decides.  One per worker."""

    def __init__(self, rng: random.Random, *, max_failures: int | None = None) -> None:
        self._backoff = Backoff(rng)
        self._max_failures = max_failures
        self._failures = 0
        self._flaps = 0
        self._registered_at: float | None = None
        self._auth_refusals = 0

    @property
    def failures(self) -> int:
        """Connections in a row that failed or did not last."""
        return self._failures

    def registered(self, now: float) -> None:
        """A connection got its register response."""
        self._registered_at = now
        self._auth_refusals = 0

    def lost(self, error: Exception | None, now: float, *, jobs_running: bool) -> Retry | GiveUp:
        """A connection ended, or could not be made.  What next?"""
        registered_at, self._registered_at = self._registered_at, None
        if registered_at is not None:
            if now - registered_at >= LASTING_REGISTRATION:
                self._backoff.reset()
                self._failures = self._flaps = 0
                return Retry(delay=self._backoff.next_delay())
            self._flaps += 1
        self._failures += 1
        if isinstance(error, AuthenticationError):
            return self._refused(error, jobs_running)
        if self._max_failures is not None and self._failures >= self._max_failures:
            return GiveUp(error=_gave_up(error, self._failures))
        delay = self._backoff.next_delay()
        if isinstance(error, HandshakeError) and error.retry_after is not None:
            delay = max(delay, min(error.retry_after, RETRY_AFTER_MAX))
        # Of a drop only: a server that cannot be reached since has another fault than colliding names.
        flaps = 0 if registered_at is None else self._flaps
        return Retry(delay=delay, hint=_FLAP_HINT if flaps >= _FLAPS_WORTH_TELLING else "")

    def _refused(self, error: AuthenticationError, jobs_running: bool) -> Retry | GiveUp:
        self._auth_refusals += 1
        if jobs_running:
            return Retry(delay=self._backoff.next_delay())
        if self._auth_refusals > 1:
            return GiveUp(error=error)
        return Retry(delay=self._backoff.next_delay())


def _gave_up(error: Exception | None, attempts: int) -> ConnectionLostError:
    code = error.last_close_code if isinstance(error, ConnectionLostError) else None
    limit = "max_connect_failures set this limit; without it the worker tries for ever"
    gave_up = ConnectionLostError(
        f"gave up after {attempts} failed connections; the last: {error}",
        attempts=attempts,
        last_close_code=code,
        hint=f"{error.hint}; {limit}" if isinstance(error, AgentError) and error.hint else limit,
        code="CONNECTION_GAVE_UP",
    )
    gave_up.__cause__ = error
    return gave_up
