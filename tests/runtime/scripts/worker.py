"""A worker as a program, for test_run.py: ``worker.py BACKEND SCENARIO URL KEY SECRET``.

Prints one word per thing that happened; the test waits for the words, so nothing here sleeps for a guess.  The rooms
are memory ones of this process: the server under test is in another.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio

from livekit_agent import Job, JobContext, SimpleUniversalHandler, UniversalWorker, WorkerOptions, run
from livekit_agent.rooms import MemoryRooms

BACKEND, SCENARIO, URL, KEY, SECRET = sys.argv[1:6]


def say(word: str) -> None:
    print(word, flush=True)


async def tell_the_warning(ctx: JobContext) -> None:
    await ctx.shutting_down.wait()
    say("warned")


async def polite(ctx: JobContext) -> None:
    """Finishes when asked to."""
    say("started")
    await ctx.shutting_down.wait()
    say("warned")
    say("finished")


async def endless(ctx: JobContext) -> None:
    """Never finishes by itself."""
    ctx.task_group.start_soon(tell_the_warning, ctx)
    say("started")
    try:
        await anyio.sleep_forever()
    finally:
        say("cancelled")


async def shielded(ctx: JobContext) -> None:
    """Has a long clean-up of its own."""
    ctx.task_group.start_soon(tell_the_warning, ctx)
    say("started")
    try:
        await anyio.sleep_forever()
    finally:
        say("cancelled")
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()


async def blocking(ctx: JobContext) -> None:
    """Never lets the event loop run again; tells which signals the program has seen."""
    say("started")
    handler: Any = signal.getsignal(signal.SIGTERM)
    seen = 0
    while True:
        time.sleep(0.005)  # noqa: ASYNC251 - that is the point
        if handler.__self__.count > seen:
            seen = handler.__self__.count
            say(f"seen-{seen}")


async def spinning_here_and_nowhere_else(ctx: JobContext) -> None:
    """Swallows every cancellation."""
    ctx.task_group.start_soon(tell_the_warning, ctx)
    say("started")
    while True:
        try:
            await anyio.sleep(1)
        except BaseException:  # that is the point
            continue


async def interrupting(ctx: JobContext) -> None:
    say("started")
    raise KeyboardInterrupt


async def exiting(ctx: JobContext) -> None:
    say("started")
    sys.exit(5)


async def unanswering(job: Job) -> bool:
    """Asked about an offer, never comes back."""
    say("asked")
    with anyio.CancelScope(shield=True):
        await anyio.sleep_forever()
    return True


def hanging(job: Job) -> bool:
    """Looks something up that never answers, and knows no cancellation."""
    say("asked")
    time.sleep(600)
    return True


async def stopping(ctx: JobContext) -> None:
    """Ends the whole worker from inside."""
    say("started")
    WORKER.request_stop()


HANDLERS: dict[str, Callable[[JobContext], Any]] = {
    "polite": polite,
    "endless": endless,
    "shielded": shielded,
    "blocking": blocking,
    "spinning": spinning_here_and_nowhere_else,
    "interrupting": interrupting,
    "exiting": exiting,
    "thread": stopping,
    "twice": stopping,
}

OPTIONS: dict[str, dict[str, Any]] = {
    "spinning": {"cancel_grace": 0.1},
    "unanswering": {"cancel_grace": 0.1},
    "shielded": {"cancel_grace": 30},
    "config": {"ca_file": "/nowhere/ca.pem"},
    "gave-up": {"max_connect_failures": 2},
}


def make_worker() -> UniversalWorker:
    request: Any = {"unanswering": unanswering, "hanging": hanging}.get(SCENARIO)
    handler = SimpleUniversalHandler(job_assigned=HANDLERS.get(SCENARIO), job_request=request)
    options = WorkerOptions(agent_name="program", **OPTIONS.get(SCENARIO, {}))
    return UniversalWorker(URL, KEY, SECRET, handler, options, rooms=MemoryRooms())


def in_a_thread() -> int:
    """Run off the main thread; the main one only waits."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(WORKER, backend=BACKEND)))  # type: ignore[arg-type]
    thread.start()
    thread.join()
    return codes[0]


def twice() -> int:
    """Two workers, one after the other, and the handlers of signals as they were after each; then the first again."""
    global WORKER
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    first = WORKER
    for _ in range(2):
        say(f"code-{run(WORKER, backend=BACKEND)}")  # type: ignore[arg-type]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        WORKER = make_worker()
    return run(first, backend=BACKEND)  # type: ignore[arg-type]


logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
WORKER = make_worker()
if SCENARIO == "thread":
    sys.exit(in_a_thread())
elif SCENARIO == "twice":
    sys.exit(twice())
else:
    sys.exit(run(WORKER, backend=BACKEND))  # type: ignore[arg-type]
