"""Virtual time on both backends: exact instants, one order per seed, and errors where reality would be needed."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from livekit_agent import Job, JobType, SimpleUniversalHandler
from livekit_agent.handlers import ask
from livekit_agent.simulation import DeadlockError, RealWorldError, run_virtual

pytestmark = pytest.mark.virtual


async def test_the_clock_starts_at_zero_and_jumps_to_each_deadline_exactly() -> None:
    instants = [anyio.current_time()]
    for delay in (0.1, 0.2, 86_400.0, 1e-9):
        await anyio.sleep(delay)
        instants.append(anyio.current_time())
    assert instants == [0.0, 0.1, 0.1 + 0.2, 0.1 + 0.2 + 86_400.0, 0.1 + 0.2 + 86_400.0 + 1e-9]


async def test_two_thousand_deadlines_fire_at_their_own_instants() -> None:
    late: list[float] = []

    async def sleeper(deadline: float) -> None:
        await anyio.sleep_until(deadline)
        late.append(anyio.current_time() - deadline)

    async with anyio.create_task_group() as group:
        for i in range(2_000):
            group.start_soon(sleeper, i / 7)
    assert late == [0.0] * 2_000


async def test_sleeping_a_year_takes_no_time_and_a_day_of_ticks_is_counted_exactly() -> None:
    ticks = 0
    with anyio.move_on_after(86_400):
        while True:
            await anyio.sleep(2.5)
            ticks += 1
    assert ticks in (34_559, 34_560)  # at the last instant the deadline and the tick meet; the backends may differ
    await anyio.sleep(365 * 86_400)


async def test_infinity_is_no_deadline() -> None:
    order: list[str] = []

    async def for_ever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            order.append("cancelled")

    async with anyio.create_task_group() as group:
        group.start_soon(for_ever)
        with anyio.CancelScope(deadline=math.inf):
            await anyio.sleep(5)
        order.append("woken")
        group.cancel_scope.cancel()
    assert order == ["woken", "cancelled"]
    assert anyio.current_time() == 5.0


async def test_a_deadline_in_the_past_is_now() -> None:
    await anyio.sleep(10)
    with anyio.CancelScope(deadline=3) as scope:
        await anyio.sleep(1)
    assert scope.cancelled_caught
    assert anyio.current_time() == 10.0


async def test_nested_deadlines_fire_in_order_at_exact_instants() -> None:
    caught: list[tuple[int, float]] = []
    with anyio.CancelScope(deadline=3):
        with anyio.CancelScope(deadline=2):
            with anyio.CancelScope(deadline=1):
                await anyio.sleep_forever()
            caught.append((1, anyio.current_time()))
            await anyio.sleep_forever()
        caught.append((2, anyio.current_time()))
        await anyio.sleep_forever()
    caught.append((3, anyio.current_time()))
    assert caught == [(1, 1.0), (2, 2.0), (3, 3.0)]


async def test_of_equal_nested_deadlines_the_outer_one_catches() -> None:
    with anyio.CancelScope(deadline=2) as outer:
        with anyio.CancelScope(deadline=2) as inner:
            await anyio.sleep_forever()
        pytest.fail("the inner scope caught")
    assert (outer.cancelled_caught, inner.cancelled_caught) == (True, False)


async def test_a_deadline_can_be_moved_earlier_and_later_and_into_the_past() -> None:
    with anyio.CancelScope(deadline=100) as earlier:
        earlier.deadline = 1
        await anyio.sleep_forever()
    assert anyio.current_time() == 1.0
    with anyio.CancelScope(deadline=2) as later:
        later.deadline = 7
        await anyio.sleep_forever()
    assert anyio.current_time() == 7.0
    with anyio.CancelScope() as past:
        past.deadline = 0
        await anyio.sleep_forever()
    assert anyio.current_time() == 7.0


async def test_a_shielded_wait_inside_a_cancelled_group_takes_its_time_and_no_longer() -> None:
    """On asyncio AnyIO repeats the cancellation without rest while the group waits; the clock must move still."""
    done: list[float] = []

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(5)
            done.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(shielded)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert done == [5.0]
    assert anyio.current_time() == 5.0


async def test_the_clock_does_not_overtake_work_that_goes_on_inside_a_cancelled_group() -> None:
    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
            for _ in range(400):
                await anyio.lowlevel.checkpoint()
            assert anyio.current_time() == 2.0
            await anyio.sleep(3)

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 2.5)
        group.start_soon(shielded)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert anyio.current_time() == 5.0


async def test_swallowing_cancellation_three_times_still_ends_at_the_deadline() -> None:
    swallowed = 0
    with anyio.move_on_after(10):
        for _ in range(3):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                swallowed += 1
        await anyio.sleep_forever()
    assert swallowed == 3
    assert anyio.current_time() == 10.0


async def test_exceptions_and_groups_come_through_as_they_are() -> None:
    async def fail(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as group:
            group.start_soon(fail, "a")
            group.start_soon(fail, "b")
    assert {str(leaf) for leaf in caught.value.exceptions} == {"a", "b"}


async def test_events_and_streams_work_as_in_real_time() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    got: list[int] = []

    async def reader() -> None:
        async with receive:
            async for item in receive:
                got.append(item)
                await anyio.sleep(1)

    async with anyio.create_task_group() as group, send:
        group.start_soon(reader)
        for i in range(5):
            await send.send(i)
        await send.aclose()
    assert got == [0, 1, 2, 3, 4]
    assert anyio.current_time() == 5.0


@given(delays=st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
async def test_sleepers_wake_in_the_order_of_their_deadlines(delays: list[float]) -> None:
    woken: list[float] = []

    async def sleeper(delay: float) -> None:
        await anyio.sleep(delay)
        woken.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for delay in delays:
            group.start_soon(sleeper, delay)
    assert woken == sorted(delays)


async def test_a_worker_thread_is_refused_by_name() -> None:
    with pytest.raises(RealWorldError, match="worker thread under virtual time"):
        await anyio.to_thread.run_sync(lambda: None)
    with pytest.raises(RealWorldError, match="worker thread under virtual time"):
        await ask(SimpleUniversalHandler(job_request=lambda job: True), Job(id="AJ_1", type=JobType.ROOM))


# ---------------------------------------------------------------- what run_virtual itself answers


async def _answer(value: int) -> int:
    await anyio.sleep(1_000)
    return value


def test_the_result_comes_back(backend: str) -> None:
    assert run_virtual(_answer, 42, backend=backend) == 42


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="curio"):
        run_virtual(_answer, 1, backend="curio")


def test_a_deadlock_is_an_error_with_the_task_tree(backend: str) -> None:
    async def waits_for_nobody() -> None:
        await anyio.Event().wait()

    async def main() -> None:
        await anyio.sleep(2.5)
        async with anyio.create_task_group() as group:
            group.start_soon(waits_for_nobody, name="patient one")
            group.start_soon(waits_for_nobody, name="patient two")

    with pytest.raises(DeadlockError) as caught:
        run_virtual(main, backend=backend)
    text = str(caught.value)
    assert "all 3 tasks wait" in text
    assert "at 2.5 s of virtual time" in text
    assert text.count("waits_for_nobody") == 2
    assert "    patient one: simulation/test_virtual_time.py:" in text
    assert " at 0x" not in text


def test_a_deadlock_lets_clean_up_run(backend: str) -> None:
    seen: list[str] = []

    async def main() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("cleaned up")

    with pytest.raises(DeadlockError):
        run_virtual(main, backend=backend)
    assert seen == ["cleaned up"]


def test_a_keyboard_interrupt_comes_through(backend: str) -> None:
    async def main() -> None:
        await anyio.sleep(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main, backend=backend)


def test_an_executor_a_socket_and_a_signal_are_refused_on_asyncio() -> None:
    async def executor() -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, print)

    async def connect() -> None:
        await anyio.connect_tcp("127.0.0.1", 9)

    async def signals() -> None:
        with anyio.open_signal_receiver(2):
            pass

    with pytest.raises(RealWorldError, match="run_in_executor"):
        run_virtual(executor, backend="asyncio")
    with pytest.raises(ExceptionGroup) as caught:
        run_virtual(connect, backend="asyncio")
    assert caught.group_contains(RealWorldError, match=r"loop\.create_connection")
    with pytest.raises(RealWorldError, match="signal_handler"):
        run_virtual(signals, backend="asyncio")


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def _connect_tcp() -> None:
    await anyio.connect_tcp("127.0.0.1", 9)


async def _connect_by_name() -> None:
    await anyio.connect_tcp("nobody.example", 9)


async def _listen() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        await listener.serve(lambda stream: stream.aclose())


async def _wait_readable() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await anyio.wait_readable(ours)


async def _process() -> None:
    await anyio.run_process([sys.executable, "-c", ""])


async def _signals() -> None:
    with anyio.open_signal_receiver(signal.SIGUSR1):
        pass


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (_connect_tcp, "trio.socket.socket|loop.create_connection"),
        (_connect_by_name, "trio.socket.getaddrinfo|loop.getaddrinfo"),
        (_listen, "trio.lowlevel.wait_readable|loop.add_reader|loop.getaddrinfo|loop.create_server|loop.sock_accept"),
        (_wait_readable, "trio.lowlevel.wait_readable|loop.add_reader"),
        (_process, "a process|loop.subprocess_exec"),
        (_signals, "a signal receiver|loop.add_signal_handler"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_whatever_is_real_is_refused_by_the_name_of_the_call(
    ask: Callable[[], Awaitable[None]], named: str, backend: str
) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - in a group or not, as the library has it
        run_virtual(ask, backend=backend)
    found = leaves(caught.value)
    assert [type(leaf) for leaf in found] == [RealWorldError] * len(found)
    assert any(name in str(found[0]) for name in named.split("|")), found


def test_after_a_run_under_virtual_time_trio_has_its_sockets_again() -> None:
    run_virtual(_answer, 1, backend="trio")

    async def real() -> bytes:
        ours, theirs = trio.socket.socketpair()
        with ours, theirs:
            await ours.send(b"x")
            return await theirs.recv(1)

    assert trio.run(real) == b"x"


def test_a_foreign_thread_that_calls_into_the_loop_is_named() -> None:
    async def main() -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(int,), name="intruder")
        thread.start()
        thread.join()
        await anyio.sleep(1)

    with pytest.raises(RealWorldError, match="'intruder' called into the loop"):
        run_virtual(main, backend="asyncio")


def test_the_switches_of_trio_are_put_back() -> None:
    from trio._core import _run

    before = (_run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate())
    run_virtual(_answer, 1, backend="trio", seed=7)
    assert (_run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()) == before


def test_a_trio_without_its_private_names_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    from trio._core import _run

    monkeypatch.delattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING")
    with pytest.raises(RuntimeError, match="_ALLOW_DETERMINISTIC_SCHEDULING"):
        run_virtual(_answer, 1, backend="trio")


# ---------------------------------------------------------------- one order per seed, in every process

WORKLOAD = """
import hashlib, sys
import anyio
from livekit_agent.simulation import run_virtual

trace = []

async def child(number, garbage):
    try:
        for step in range(3):
            await anyio.sleep(1)
            trace.append(("step", number, step, anyio.current_time()))
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        trace.append(("cancelled", number, anyio.current_time()))
        with anyio.CancelScope(shield=True):
            await anyio.sleep(number % 3)
        trace.append(("cleaned", number))
        raise

async def main():
    garbage = []
    for round_ in range(3):
        async with anyio.create_task_group() as outer:
            for number in range(20):
                garbage.append(bytearray(len(sys.argv[0]) * number))  # moves addresses between processes
                outer.start_soon(child, number, garbage)
            await anyio.sleep(4)
            outer.cancel_scope.cancel()
    event = anyio.Event()
    async def waiter(number):
        await event.wait()
        trace.append(("set", number))
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(waiter, number)
        await anyio.sleep(1)
        event.set()

run_virtual(main, backend=sys.argv[1], seed=int(sys.argv[2]))
print(hashlib.sha256(repr(trace).encode()).hexdigest())
"""


def _hash_in_a_process(backend: str, seed: int, hash_seed: str) -> str:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", WORKLOAD, backend, str(seed)], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_same_seed_gives_the_same_order_in_every_process(backend: str) -> None:
    hashes = {_hash_in_a_process(backend, 1, hash_seed) for hash_seed in ("0", "1", "random")}
    assert len(hashes) == 1


def test_other_seeds_give_other_orders(backend: str) -> None:
    assert _hash_in_a_process(backend, 1, "0") != _hash_in_a_process(backend, 2, "0")


def test_asyncio_runs_never_import_trio() -> None:
    code = (
        "import sys; from livekit_agent.simulation import run_virtual; import anyio\n"
        "run_virtual(anyio.sleep, 1, backend='asyncio'); assert 'trio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
