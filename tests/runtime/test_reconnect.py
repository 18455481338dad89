"""Connections come and go; jobs and their statuses do not depend on them."""

from __future__ import annotations

import logging
import math

import anyio
import pytest

from livekit_agent import AuthenticationError, ConfigError, ConnectionLostError, JobContext, WorkerStatus, events
from livekit_agent.protocol import decode_token

from .harness import SUCCESS, WALL, Gateway, Line, Plan, until_cancelled, world

pytestmark = pytest.mark.virtual


def http(status: int, **headers: str) -> Plan:
    """A server that answers the upgrade with an error."""

    def plan(line: Line) -> None:
        line.http_status = status
        line.http_headers = {name.replace("_", "-"): value for name, value in headers.items()}

    return plan


def mute(line: Line) -> None:
    line.answers_register = False


async def test_a_job_lives_through_a_server_restart_and_its_status_is_told_to_the_new_one() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(30)

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.gateway.plan.extend([ConnectionRefusedError()] * 3)
        w.line.drop()
        second = await w.gateway.registered(2)
        assert w.gateway.kinds(2)[:3] == ["register", "update_worker", "migrate_job"]
        migrate = next(h.message.migrate_job for h in w.gateway.heard if h.kind == "migrate_job")
        assert list(migrate.job_ids) == ["AJ_1"]
        await w.told("AJ_1 terminated")
        assert w.gateway.statuses("AJ_1") == [(1, ""), (2, "")]
        assert w.agents() == []
        assert second.number == 2


async def test_a_status_decided_between_connections_is_told_once_there_is_one() -> None:
    async def assigned(ctx: JobContext) -> None:
        await lost.wait()
        await anyio.sleep(0.01)

    lost = anyio.Event()
    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.gateway.plan.extend([ConnectionRefusedError()] * 2)
        w.line.drop()
        lost.set()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        assert w.gateway.heard[-1].line == 2 or w.gateway.lines[-1].number == 2
        # Nobody was there to be told first, so the room was left at once.
        assert w.times["AJ_1 terminated"] < w.gateway.final_at("AJ_1")


async def test_a_status_is_resent_once_per_connection_until_the_pong_proves_it() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(1)

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.core._on_ping = lambda event, now, before: None  # type: ignore[method-assign]
        hearers = dict(w.line.core._HEARERS)
        deaf = {kind: (lambda *_: None) if kind.name == "PING" else hear for kind, hear in hearers.items()}
        w.line.core._HEARERS = deaf  # type: ignore[misc]
        await w.gateway.end_of("AJ_1")
        assert w.worker._book.unproven()
        await anyio.sleep(1)
        w.line.drop()
        await w.gateway.registered(2)
        await anyio.sleep(1)
        assert w.gateway.finals("AJ_1") == [(SUCCESS, ""), (SUCCESS, "")]
        assert not w.worker._book.unproven()
        w.line.drop()
        await w.gateway.registered(3)
        await anyio.sleep(1)
        assert len(w.gateway.finals("AJ_1")) == 2, "proven: not sent again"


async def test_a_status_written_just_before_the_reset_is_not_lost() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(1)

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.freeze()  # what is written from now on is never read
        await anyio.sleep(1.2)
        assert w.gateway.finals("AJ_1") == []
        w.line.thaw()
        w.line.core.drop()
        w.line.pump()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        assert [h.line for h in w.gateway.heard if h.kind == "update_job"] == [1, 2]


async def test_after_a_reconnect_while_draining_the_server_hears_full() -> None:
    async with world(until_cancelled, max_jobs=5, shutdown_timeout=100) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.worker.request_stop()
        await anyio.sleep(1)
        w.line.drop()
        line = await w.gateway.registered(2)
        await anyio.sleep(0.01)
        first = next(h for h in w.gateway.heard if h.line == 2 and h.kind == "update_worker")
        assert (first.message.update_worker.draining, first.message.update_worker.job_count) == (True, 1)
        line.offer("AJ_2")
        assert not (await w.gateway.answer("AJ_2")).available
        assert w.worker.status is WorkerStatus.DRAINING


async def test_offers_and_promises_of_a_lost_connection_are_void() -> None:
    async def request(job: object) -> bool:
        if job.id == "AJ_1":  # type: ignore[attr-defined]
            await anyio.sleep(1)
        return True

    async with world(until_cancelled, max_jobs=2, callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        line.offer("AJ_2")
        await w.gateway.answer("AJ_2")
        assert w.worker.stats.reserved_jobs == 1
        line.drop()
        await w.gateway.registered(2)
        await anyio.sleep(2)
        assert w.worker.stats.reserved_jobs == 0
        assert w.gateway.kinds(2).count("availability") == 0
        # The same job may be offered again.
        w.line.offer("AJ_2")
        await anyio.sleep(0.1)
        assert w.gateway.kinds(2).count("availability") == 1


# ------------------------------------------------------------------------------------ backoff


async def test_delays_stay_within_full_jitter_and_the_cap() -> None:
    gateway = Gateway()
    gateway.then = ConnectionRefusedError()
    async with world(gateway=gateway) as w:
        await gateway.until(lambda: len(gateway.attempts) > 30)
        delays = [after - before for before, after in zip(gateway.attempts, gateway.attempts[1:], strict=False)]
        bounds = [min(30.0, 0.5 * 2**n) for n in range(len(delays))]
        assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
        assert max(delays) > 15, "the jitter is full"
        assert w.worker.status is WorkerStatus.DISCONNECTED


async def test_after_a_lasting_registration_the_first_retry_comes_within_half_a_second() -> None:
    async with world() as w:
        for number in range(1, 6):
            line = await w.gateway.registered(number)
            await anyio.sleep(6)
            lost_at = anyio.current_time()
            line.drop()
            await w.gateway.registered(number + 1)
            assert w.gateway.attempts[-1] - lost_at <= 0.5


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_server_that_says_goodbye_is_come_back_to(code: int) -> None:
    async with world() as w:
        line = await w.gateway.registered()
        await anyio.sleep(6)
        line.close(code)
        await w.gateway.registered(2)
        assert w.gateway.attempts[-1] <= 6.5


async def test_retry_after_is_honoured() -> None:
    gateway = Gateway()
    gateway.plan.append(http(503, retry_after="20"))
    async with world(gateway=gateway) as w:
        await w.gateway.registered(2)
        assert 20 <= gateway.attempts[1] <= 20.5


async def test_a_silent_server_at_registration_is_given_up_after_ten_seconds() -> None:
    gateway = Gateway()
    gateway.plan.append(mute)
    async with world(gateway=gateway) as w:
        lost = w.worker.events(events.ConnectionLost)
        event = await anext(lost)
        assert anyio.current_time() == 10
        assert "register" in str(event.error)
        await w.gateway.registered(2)


async def test_a_worker_that_is_dropped_at_once_again_and_again_backs_off_and_says_what_it_may_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flap(line: Line) -> None:
        async def later() -> None:
            await w.gateway.until(lambda: line.registered)
            line.drop()

        w.tasks.start_soon(later)

    gateway = Gateway()
    async with world(gateway=gateway, start=False) as w:
        gateway.then = flap
        w.tasks.start_soon(w.run)
        await gateway.until(lambda: len(gateway.attempts) >= 10)
        assert gateway.attempts[9] > 10, "hammering would take no time"
        assert "does another worker use a name" in caplog.text
        w.worker.request_stop(0)
        await w.finished.wait()


async def test_go_away_moves_to_a_new_connection_once_promised_jobs_have_come() -> None:
    async with world(until_cancelled, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        await anyio.sleep(6)
        w.line.offer("AJ_2", room="r2")
        await w.gateway.answer("AJ_2")
        w.line.go_away()
        await anyio.sleep(1)
        assert len(w.gateway.lines) == 1, "AJ_2 is still to come on this one"
        w.line.assign("AJ_2")
        await w.gateway.registered(2)
        await w.told("AJ_2 RUNNING")
        assert w.worker.stats.active_jobs == 2
        assert list(next(h.message.migrate_job for h in w.gateway.heard if h.kind == "migrate_job").job_ids) == [
            "AJ_1",
            "AJ_2",
        ]


async def test_a_peer_that_reads_nothing_is_given_up_and_every_accessor_still_answers() -> None:
    gateway = Gateway(pipe_limit=256)
    async with world(until_cancelled, gateway=gateway, max_jobs=None) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.freeze()
        for _ in range(20):
            await anyio.sleep(0.5)
            assert w.worker.stats.active_jobs == 1
            assert w.worker.status.value
            assert w.worker.worker_id in ("", "AW_1", "AW_2")
        await w.gateway.registered(2)
        assert anyio.current_time() < 40


async def test_pings_to_a_silent_server_cost_one_reconnect_and_then_peace() -> None:
    async with world() as w:
        line = await w.gateway.registered()
        line.freeze()
        await w.gateway.registered(2)
        assert 30 <= w.gateway.attempts[1] <= 30.5 + 1
        await anyio.sleep(3600)
        assert len(w.gateway.lines) == 2


async def test_each_connection_has_a_fresh_token_with_one_grant() -> None:
    async with world() as w:
        for number in range(1, 4):
            line = await w.gateway.registered(number)
            claims = decode_token(line.token)
            assert claims.api_key == "key"
            assert dict(claims.video) == {"agent": True}
            assert claims.expires_at is not None
            assert 0 < claims.expires_at - (WALL + anyio.current_time()) <= 600
            await anyio.sleep(700)
            line.drop()
        assert len({line.token for line in w.gateway.lines}) == 3


# ------------------------------------------------------------------------------------ giving up


async def test_who_has_the_wrong_url_is_told_what_to_do_with_each_attempt_and_at_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway()
    gateway.then = http(404)
    async with world(gateway=gateway, max_connect_failures=3) as w:
        await w.finished.wait()
        assert w.error is not None
        told = [record.getMessage() for record in caplog.records if "trying again in" in record.getMessage()]
        advice = w.error.__cause__.hint
        assert "a LiveKit server's" in advice
        assert [text.endswith(f" s ({advice})") for text in told] == [True, True]
        assert w.error.hint.startswith(f"{advice}; max_connect_failures")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_at_the_first_connect_is_fatal_after_one_retry_with_a_fresh_token(status: int) -> None:
    gateway = Gateway()
    gateway.then = http(status)
    async with world(gateway=gateway) as w:
        await w.finished.wait()
        assert isinstance(w.error, AuthenticationError)
        assert w.error.status == status
        assert w.error.hint
        assert len(gateway.attempts) == 2


async def test_a_refusal_that_a_fresh_token_cures_is_nothing() -> None:
    gateway = Gateway()
    gateway.plan.append(http(401))
    async with world(gateway=gateway) as w:
        await w.gateway.registered(2)
        assert w.worker.status is WorkerStatus.AVAILABLE


async def test_a_refusal_on_a_reconnect_waits_for_the_running_jobs_and_then_is_fatal() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(100)

    async with world(assigned, max_jobs=2) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.gateway.then = http(401)
        w.line.drop()
        ends = await w.told("AJ_1 terminated")
        await w.finished.wait()
        assert isinstance(w.error, AuthenticationError)
        assert anyio.current_time() == ends, "nothing is waited for that cannot come"
        assert len(w.gateway.attempts) > 3, "statuses could still have got out"


async def test_a_refusal_on_a_reconnect_that_is_cured_lets_everything_go_on() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(100)

    async with world(assigned, max_jobs=2) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.gateway.plan.extend([http(401), http(401), http(401)])
        w.line.drop()
        await w.gateway.registered(5)
        await anyio.sleep(0.01)
        assert w.gateway.standings()[-1] == (False, 1), "no longer refused: free for offers"
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")


async def test_max_connect_failures_ends_the_worker() -> None:
    gateway = Gateway()
    gateway.then = ConnectionRefusedError()
    async with world(gateway=gateway, max_connect_failures=4) as w:
        await w.finished.wait()
        assert isinstance(w.error, ConnectionLostError)
        assert w.error.code == "CONNECTION_GAVE_UP"
        assert len(gateway.attempts) == 4


async def test_giving_up_with_a_job_running_drains_it_first() -> None:
    async def assigned(ctx: JobContext) -> None:
        await ctx.shutting_down.wait()
        w.tell("warned")
        await anyio.sleep(3)

    async with world(assigned, max_connect_failures=2, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.gateway.then = ConnectionRefusedError()
        w.line.drop()
        await w.finished.wait()
        assert isinstance(w.error, ConnectionLostError)
        assert anyio.current_time() == w.times["warned"] + 3
        assert w.worker.stats.completed_jobs == 1


async def test_a_connector_that_cannot_work_ends_start_at_once() -> None:
    async def connect(endpoint: object) -> object:
        await anyio.sleep(1)
        raise ConfigError("ca_file: cannot be read", field="ca_file")

    async with world(connector=connect) as w:
        await w.finished.wait()
        assert isinstance(w.error, ConfigError)
        assert anyio.current_time() == 1
        assert w.worker.status is WorkerStatus.CLOSED


# ------------------------------------------------------------------------------------ connection and end at once


@pytest.mark.parametrize("seed", range(20))
async def test_the_connection_is_lost_at_the_tick_of_a_jobs_end(seed: int, backend: str) -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep_until(5)

    async def cut() -> None:
        await anyio.sleep_until(5)
        for _ in range(seed):
            await anyio.lowlevel.checkpoint()
        w.line.drop()

    async with world(assigned) as w:
        await w.give()
        w.tasks.start_soon(cut)
        await w.told("AJ_1 terminated")
        await w.gateway.registered(2)
        await anyio.sleep(1)
        finals = w.gateway.finals("AJ_1")
        assert finals, "told on one connection or the other"
        assert set(finals) == {(SUCCESS, "")}
        per_line = [h.line for h in w.gateway.heard if h.kind == "update_job" and h.message.update_job.status == 2]
        assert len(per_line) == len(set(per_line)), "once per connection"
        assert w.count("AJ_1 terminated") == 1


# ------------------------------------------------------------------------------------ an idle worker


async def test_an_idle_worker_wakes_for_load_samples_and_pings_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Counted by the instants of virtual time at which anything of the worker's ran, over a simulated day."""
    caplog.set_level(logging.ERROR)
    day = 86_400
    instants: set[float] = set()
    samples = 0

    def probe() -> object:
        nonlocal samples
        samples += 1
        return Sample()

    from livekit_agent.monitoring._probe import Sample

    async with world(start=False) as w:
        w.worker._standing.probe = probe  # type: ignore[assignment]
        core_ticks: list[float] = []
        w.tasks.start_soon(w.run)
        line = await w.gateway.registered()
        session = w.worker._supervisor.session
        assert session is not None
        timeout, read = session.core.handle_timeout, session.core.receive_data
        session.core.handle_timeout = lambda now: (core_ticks.append(now), timeout(now))  # type: ignore[assignment,method-assign,return-value]
        session.core.receive_data = lambda data, now: (instants.add(now), read(data, now))  # type: ignore[assignment,method-assign,return-value]
        await anyio.sleep_until(day + 0.001)
        assert samples == day / 2.5 + 1
        assert len(instants) == day // 10, "one wake-up per ping of the server's"
        # The silence timer looks every time it was last armed for, never later moved by each read.
        assert len(core_ticks) <= day // 10
        assert all(math.isclose(tick % 5, 0, abs_tol=1e-6) for tick in core_ticks)
        sent = [h for h in w.gateway.heard if h.line == line.number]
        assert [h.kind for h in sent] == ["register", "update_worker"], "nothing to say, nothing said"
