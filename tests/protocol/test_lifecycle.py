"""Timers, backoff, whether to try again, and what a refused upgrade means: pure values under a fake clock."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from livekit_agent import _bounds
from livekit_agent._errors import (
    AuthenticationError,
    ConnectionLostError,
    HandshakeError,
    RemoteProtocolError,
)
from livekit_agent.protocol import Backoff, GiveUp, Lifecycle, Retry
from livekit_agent.protocol._refusal import refusal_error
from livekit_agent.protocol._timers import Timer, TimerTable
from livekit_agent.protocol._websocket import Refused

from .pair import TOKEN, WALL

# ------------------------------------------------------------------------------------ timers


def test_timers_fire_in_order_of_their_deadlines_and_equal_ones_as_they_were_set() -> None:
    table = TimerTable()
    for timer, when in ((Timer.CLOSE, 2.0), (Timer.ANSWER, 1.0), (Timer.SILENCE, 2.0)):
        table.set(timer, when)
    assert table.next_deadline() == 1.0
    assert table.pop_due(0.999) is None
    assert [table.pop_due(2.0) for _ in range(4)] == [
        (Timer.ANSWER, ""),
        (Timer.CLOSE, ""),
        (Timer.SILENCE, ""),
        None,
    ]
    assert table.next_deadline() == math.inf


class TimerTableAgainstADictionary(RuleBasedStateMachine):
    """A heap with lazy deletion must be indistinguishable from a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.table = TimerTable()
        self.model: dict[tuple[Timer, str], float] = {}

    keys = st.tuples(st.sampled_from([Timer.ANSWER, Timer.SETTLE]), st.sampled_from("abc"))
    whens = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf])

    @rule(key=keys, when=whens)
    def set(self, key: tuple[Timer, str], when: float) -> None:
        self.table.set(key[0], when, key[1])
        self.model[key] = when

    @rule(key=keys)
    def stop(self, key: tuple[Timer, str]) -> None:
        assert self.table.stop(*key) is (self.model.pop(key, None) is not None)

    @rule(now=whens)
    def pop(self, now: float) -> None:
        due = sorted(when for when in self.model.values() if when <= now and when < math.inf)
        key = self.table.pop_due(now)
        assert (key is None) is (not due)
        if key is not None:
            assert self.model.pop(key) == due[0]

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model.clear()

    @invariant()
    def same_deadline(self) -> None:
        assert self.table.next_deadline() == min(self.model.values(), default=math.inf)


TestTimerTable = TimerTableAgainstADictionary.TestCase
TestTimerTable.settings = settings(max_examples=30, stateful_step_count=30)


def test_answered_offers_leave_no_heap_of_dead_timers_behind() -> None:
    table = TimerTable()
    table.set(Timer.SILENCE, 1.0)
    for number in range(10_000):
        table.set(Timer.ANSWER, 2.5, str(number))
        table.stop(Timer.ANSWER, str(number))
        table.set(Timer.SILENCE, 1.0)
        assert len(table._heap) <= 2 * len(table._armed) + 64
    assert table.next_deadline() == 1.0


def test_a_stopped_timer_is_not_due_and_a_cleared_table_holds_nothing() -> None:
    table = TimerTable()
    table.set(Timer.ANSWER, 1.0, "AJ_1")
    table.set(Timer.ANSWER, 2.0, "AJ_2")
    table.stop(Timer.ANSWER, "AJ_1")
    assert table.pop_due(1.5) is None
    table.clear()
    assert table._heap == []
    assert table.pop_due(3.0) is None


@pytest.mark.parametrize("seed", range(10))
def test_what_lives_on_when_the_dead_are_thrown_away_fires_in_order(seed: int) -> None:
    table = TimerTable()
    whens = random.Random(seed).sample(range(1_000), 200)
    for number, when in enumerate(whens):
        table.set(Timer.ANSWER, float(when), str(number))
    living = sorted(range(0, 200, 4), key=whens.__getitem__)
    for number in range(200):
        if number % 4:
            table.stop(Timer.ANSWER, str(number))
    table.set(Timer.SILENCE, 2_000.0)
    assert len(table._heap) == 51
    assert [table.pop_due(3_000.0) for _ in range(51)] == [
        *((Timer.ANSWER, str(number)) for number in living),
        (Timer.SILENCE, ""),
    ]


def test_a_deadline_that_never_comes_takes_no_room_and_is_not_due_even_at_the_end_of_time() -> None:
    table = TimerTable()
    table.set(Timer.ANSWER, math.inf, "AJ_1")
    assert table._heap == []
    assert table.pop_due(math.inf) is None
    assert table.stop(Timer.ANSWER, "AJ_1")


# ------------------------------------------------------------------------------------ backoff


@given(seed=st.integers(), attempts=st.integers(1, 200))
def test_a_delay_is_within_its_bound_and_the_bound_doubles_up_to_the_cap(seed: int, attempts: int) -> None:
    backoff = Backoff(random.Random(seed))
    for n in range(attempts):
        bound = backoff.bound()
        assert bound == min(30.0, 0.5 * 2.0 ** min(n, 63))
        assert 0.0 <= backoff.next_delay() <= bound
    backoff.reset()
    assert backoff.bound() == 0.5


def test_delays_are_spread_over_their_whole_range() -> None:
    delays = [Backoff(random.Random(seed)).next_delay() for seed in range(500)]
    assert min(delays) < 0.02
    assert max(delays) > 0.48
    assert 0.2 < sum(delays) / 500 < 0.3


# ------------------------------------------------------------------------------------ whether to try again

LOST = ConnectionLostError("gone", last_close_code=1006)
REFUSED = AuthenticationError("no", status=401)


def delay_of(verdict: Retry | GiveUp) -> float:
    assert isinstance(verdict, Retry)
    return verdict.delay


def test_the_first_retry_after_a_registration_that_lasted_comes_within_half_a_second() -> None:
    for seed in range(50):
        life = Lifecycle(random.Random(seed))
        for n in range(20):
            life.lost(LOST, float(n), jobs_running=False)
        life.registered(100.0)
        assert delay_of(life.lost(LOST, 105.0, jobs_running=True)) <= 0.5
        assert life.failures == 0


def test_case_18_a_register_response_alone_does_not_reset_the_backoff() -> None:
    life = Lifecycle(random.Random(1))
    longest = 0.0
    for n in range(40):
        life.registered(n * 100.0)
        longest = max(longest, delay_of(life.lost(LOST, n * 100.0 + 4.99, jobs_running=False)))
    assert longest > 10
    assert life.failures == 40


def test_a_worker_that_is_dropped_at_once_again_and_again_is_told_why_from_the_third_time_on() -> None:
    life = Lifecycle(random.Random(1))
    hints = []
    for n in range(4):
        life.registered(float(n))
        verdict = life.lost(LOST, n + 0.1, jobs_running=False)
        assert isinstance(verdict, Retry)
        hints.append("collides" in verdict.hint)
    assert hints == [False, False, True, True]
    unreachable = life.lost(LOST, 50.0, jobs_running=False)
    assert isinstance(unreachable, Retry)
    assert unreachable.hint == "", "that is no drop"
    life.registered(100.0)
    life.lost(LOST, 200.0, jobs_running=False)
    life.registered(300.0)
    verdict = life.lost(LOST, 300.1, jobs_running=False)
    assert isinstance(verdict, Retry)
    assert verdict.hint == ""


@pytest.mark.parametrize("limit", [1, 3])
def test_case_18_attempts_stop_at_the_limit_with_one_error(limit: int) -> None:
    life = Lifecycle(random.Random(1), max_failures=limit)
    for n in range(limit - 1):
        assert isinstance(life.lost(LOST, float(n), jobs_running=False), Retry)
    verdict = life.lost(LOST, 9.0, jobs_running=False)
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, ConnectionLostError)
    assert (verdict.error.attempts, verdict.error.last_close_code) == (limit, 1006)
    assert verdict.error.__cause__ is LOST
    assert verdict.error.code == "CONNECTION_GAVE_UP"


def test_losing_a_connection_that_lasted_is_no_failure_to_connect() -> None:
    life = Lifecycle(random.Random(1), max_failures=1)
    for n in range(5):
        life.registered(n * 100.0)
        assert isinstance(life.lost(LOST, n * 100.0 + 50, jobs_running=False), Retry)
    assert isinstance(life.lost(LOST, 1000.0, jobs_running=False), GiveUp)


def test_without_a_limit_it_tries_for_ever() -> None:
    life = Lifecycle(random.Random(1))
    errors = (LOST, HandshakeError("x", status=503), RemoteProtocolError("y"), None)
    assert all(isinstance(life.lost(errors[n % 4], float(n), jobs_running=False), Retry) for n in range(2000))


def test_case_12_retry_after_is_honoured_within_reason() -> None:
    life = Lifecycle(random.Random(1))
    busy = HandshakeError("busy", status=503, retry_after=20.0)
    assert delay_of(life.lost(busy, 0.0, jobs_running=False)) == 20.0
    forever = HandshakeError("busy", status=503, retry_after=99_999_999.0)
    assert delay_of(life.lost(forever, 0.0, jobs_running=False)) == _bounds.RETRY_AFTER_MAX
    at_once = HandshakeError("busy", status=503, retry_after=0.0)
    assert 0 <= delay_of(life.lost(at_once, 0.0, jobs_running=False)) <= 2.0


def test_case_9_a_refused_token_is_tried_once_more_with_a_fresh_one_and_then_fatal() -> None:
    life = Lifecycle(random.Random(1))
    assert 0 <= delay_of(life.lost(REFUSED, 0.0, jobs_running=False)) <= 0.5
    verdict = life.lost(REFUSED, 1.0, jobs_running=False)
    assert verdict == GiveUp(error=REFUSED)


def test_a_token_accepted_in_between_makes_the_next_refusal_a_first_one() -> None:
    life = Lifecycle(random.Random(1))
    life.lost(REFUSED, 0.0, jobs_running=False)
    life.registered(1.0)
    life.lost(LOST, 100.0, jobs_running=False)
    assert isinstance(life.lost(REFUSED, 101.0, jobs_running=False), Retry)


def test_with_jobs_running_a_refused_token_is_tried_on_until_the_last_has_ended() -> None:
    life = Lifecycle(random.Random(1))
    life.registered(0.0)
    life.lost(LOST, 100.0, jobs_running=True)
    for n in range(50):
        delay = delay_of(life.lost(REFUSED, 100.0 + n, jobs_running=True))
        assert 0 <= delay <= min(30.0, 0.5 * 2.0 ** (n + 1))
    assert life.lost(REFUSED, 200.0, jobs_running=False) == GiveUp(error=REFUSED)


# ------------------------------------------------------------------------------------ what a refusal means


def refusal(status: int, body: str = "", **headers: str) -> HandshakeError | AuthenticationError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusal_error(Refused(status=status, headers=named, body=body.encode()), wall=WALL)


def http_date(wall: float) -> str:
    from email.utils import formatdate

    return formatdate(wall, usegmt=True)


@pytest.mark.parametrize(
    ("body", "skew", "hint"),
    [
        ("invalid API key: k", 0, "does not know this API key"),
        ("no permissions to access the room", 0, "proxy"),
        ("invalid token", 0, "swapped"),
        ("invalid token", 120, "120 s behind"),
        ("invalid token", -120, "120 s ahead of"),
        ("invalid token", 29, "swapped"),
    ],
)
def test_the_hint_names_the_likely_cause(body: str, skew: float, hint: str) -> None:
    error = refusal(401, body, date=http_date(WALL + skew))
    assert isinstance(error, AuthenticationError)
    assert hint in error.hint
    assert error.code == "AUTH_401"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        (http_date(WALL + 30), 30.0),
        (http_date(WALL - 30), 0.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 9, None),
        ("\u0663", None),
        ("Fri, 99 Foo 2027 99:99:99 GMT", None),
        ("Fri, 15 Jan 2027 08:00:30 -0000", 30.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_otherwise_ignored(value: str, seconds: float | None) -> None:
    error = refusal(503, retry_after=value, date=http_date(WALL))
    assert isinstance(error, HandshakeError)
    assert error.retry_after == seconds


def test_a_date_without_the_server_s_own_clock_is_ignored() -> None:
    error = refusal(503, retry_after=http_date(WALL + 30))
    assert isinstance(error, HandshakeError)
    assert error.retry_after is None


@given(
    status=st.integers(100, 999),
    body=st.binary(max_size=300),
    headers=st.dictionaries(st.sampled_from(["date", "retry-after", "location", "x"]), st.text(max_size=60)),
)
def test_any_refusal_is_one_typed_error_of_one_line(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = refusal_error(Refused(status=status, headers=headers, body=body), wall=WALL)
    assert isinstance(error, AuthenticationError if status in (401, 403) else HandshakeError)
    assert error.status == status
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@given(st.text(alphabet="MonTueJan0123456789:+-, GMTZ\x00(", max_size=40))
def test_any_date_is_a_date_or_none(value: str) -> None:
    refusal(503, retry_after=value, date=value)


@pytest.mark.parametrize("status", [200, 301, 401, 403, 404, 500, 503])
def test_case_97_no_status_quotes_the_token(status: int) -> None:
    quoting = f"invalid token: {TOKEN}, error: x; Authorization: Bearer opaque-secret"
    error = refusal(status, quoting, location=f"https://x/?access_token={TOKEN}")
    text = f"{error} {error!r} {error.hint} {getattr(error, '__notes__', '')}"
    assert "eyJ" not in text
    assert "opaque-secret" not in text
