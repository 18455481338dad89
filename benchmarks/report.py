"""Figures and the table they are written to."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import wsproto


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table: ours, the floor measured beside it, and what was promised."""

    what: str
    backend: str
    ours: float
    unit: str
    floor: float | None = None
    floor_is: str = ""
    peer: str = ""
    goal: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.floor if self.floor else None


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def number(value: float) -> str:
    """Three significant figures, in plain notation."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def machine() -> str:
    """What the figures were taken on; no names of hosts or people."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}, anyio {version('anyio')}, "
        f"trio {version('trio')}, wsproto {wsproto.__version__}; load average at the end {os.getloadavg()[1]:.1f}"
    )


def version(distribution: str) -> str:
    from importlib.metadata import version as installed

    return installed(distribution)


def table(figures: Sequence[Figure]) -> str:
    rows = ["| what | backend | ours | floor | ours / floor | peer | goal | met |", "|---|---|---|---|---|---|---|---|"]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{number(figure.ratio)}x"
        floor = "" if figure.floor is None else f"{number(figure.floor)} {figure.unit}"
        met = "" if figure.met is None else "yes" if figure.met else "**no**"
        what = figure.what + (f" ({figure.note})" if figure.note else "")
        ours = f"{number(figure.ours)} {figure.unit}"
        rows.append(
            f"| {what} | {figure.backend} | {ours} | {floor} | {ratio} | {figure.peer} | {figure.goal} | {met} |"
        )
    return "\n".join(rows)


PAGE = """\
# Benchmarks

Written by `nox -s bench` (`python -m benchmarks`); add `-- --peer` for livekit-agents beside it.  Every figure stands
beside a floor measured in the same run, alternating with it; times are medians.  The floor is a worker written by hand:
a plain stream, wsproto, a protobuf decode and a task start, with no reconnects, limits, deadlines or reports.

Machine: {machine}.

{table}

What the words mean

- *assignment → handler*: from the moment before the assignment's bytes are written to a loopback socket to the first
  line of the handler, in one process, beside a job that joins no room.  With a room the join is on top.
- *offer → handler*: on a real livekit-server, from the receipt of the offer's bytes to the first line of the handler;
  the server's own part between answer and assignment is in both columns.
- *the same, beside aiohttp*: the other floor is aiohttp's client, protobuf and `asyncio.create_task`.
- *process start → registered, no rooms*: with a server that is a loop in the parent; the floor is a process that loads
  what a worker stands on (AnyIO and the backend, protobuf with LiveKit's messages, wsproto, h11, PyJWT, psutil).
- *burst*: so many CreateDispatch calls at once on a real livekit-server with a warm cache, from before each call to the
  first line of its handler.  All of them must run.
- *jobs per second*: offer, answer, assignment, handler that returns at once, final status; 1,000 in flight, the worker
  in a process of its own.  *Processor time* is that process's, so that it holds on a busy machine too.
- *frames*: without a socket, processor time, beside ``wsproto.Connection`` doing the same.
- *held job*: two children, a memory stream and the kept Job each; resident memory beyond that of the idle worker.
- *idle*: voluntary context switches and processor time of a registered worker without jobs.
- *room …*, *data packet*, *capture_frame*, *sound*, *processor …*: on a real livekit-server, each turn in a process;
  the column "floor" is livekit.rtc, LiveKit's own Python client, doing the same on asyncio.  *sound from capture to
  receipt* is from the capture of the first loud frame to the receipt of the first loud one, in one process.
- *rooms that one process publishes in*: all have joined before the first plays; five more each time until a hundredth
  of the frames is captured 20 ms after it was due.  The server has its share of the same cores.
- `nox -s soak` is the long run: fifty rooms for ten minutes, a packet a second each way in all, sound both ways in ten.
  What it came to is in [proof/real-rooms.md](proof/real-rooms.md).

## Where the rest goes

What the goals above that are not met consist of; profiled apart from the run above, on CPython 3.12, warm and without a
socket.

- *Assignment → handler*: 61 µs (asyncio) and 76 µs (trio), where the floor takes 33 and 40 µs. On asyncio, each step
  with the probe that measures it: reading 6, frame and decoding 11, the job's machine and events 7, its scope and
  logger 5 (the logger is made later by now), starting its task 13 and until it runs 10, its event and deadline 3, the
  join 3, reporting RUNNING 6 (the
  message itself is built later, by the writer), the user's task group 4, the context 2. The 23 of the task are
  AnyIO's (a handle with a scope and an event for each task) and in the floor as well. What is measured on a socket is
  two to eight times that for both: between two jobs 10 ms apart the processor's caches have gone cold, and ours is more
  code. On such a socket (asyncio) some 45 µs pass until the bytes are read, 30 until the core has understood them, 50
  until the job is taken in, 15 until its task runs, 50 until the handler does.
- *Offer → handler*: half a millisecond above the floor (0.49 asyncio, 0.44 trio). The floor answers where it reads the
  offer; here the handler is asked in a task of its own, a third task writes the answer, and then comes all of
  assignment → handler. Offers of a real server are 200 ms apart, so all of it is met with cold caches.
- *Beside the peer*: assignment → handler is 9.1x its threads and 19x its processes (asyncio; trio 8.7x and 18x), jobs a
  second 16x and 14x its threads. The floor itself comes to 12x, 24x and 22x (trio 11x, 23x and 21x): of these goals
  only 10x is within anybody's reach on this machine, where the peer's threads take less than the 1.6 ms they took when
  the goals were set and do 266 jobs a second in place of 68 to 135.
- *Processor time of a job*: two fifths are AnyIO and the backend: three tasks (the answer, the job, leaving its room)
  and eleven cancel scopes, of which AnyIO makes one for each task and each task group; the others are the boundaries
  that docs/design/cancellation.md promises.
- *Memory of a held job*: the floor, which has nothing but the tasks, the stream and the message, weighs 22 kB, so the
  goal leaves 3 kB. An AnyIO event on asyncio weighs 0.4 kB and there is one in each task's handle; a scope weighs 0.6
  kB.
- *Rooms*: joining takes 37 ms where livekit.rtc takes 50, and half its processor time (26 and 50 ms), but only 2 ms are
  the event loop's thread; the rest is the library's and the server's: signalling, ICE, DTLS. The same goes for a data
  packet. Of a published track's processor time half is the library's threads, a fifth of the whole even in silence; the
  other half is the loop's thread, which wakes twice for each frame on cold caches (400 µs for what takes 60 warm), as
  livekit.rtc's does. With twenty rooms at 20 ms the caches stay warm and we take two thirds of its time. On trio each
  such turn costs more than on asyncio, which livekit.rtc runs on; that is the receive path's excess.
- *Start*: 0.45 s of processor time on asyncio and on trio, of which 0.25 to 0.3 s are the imports of AnyIO, the
  backend, protobuf with LiveKit's messages, wsproto and PyJWT that the floor has too. Without rooms, above a floor that
  loads only what any worker stands on, 50 ms: some 20 of them make sixty frozen dataclasses, the rest is the other
  imports and the conversation.
- *Beside aiohttp*: whose frames are parsed in C, on a bare transport. The hand-made floor, on AnyIO's stream and with
  wsproto, takes 1.9x of its time; ours is 1.2x of that.
- *Frames*: wsproto 1.3 takes 5 µs where it took 13 to 16 when the goals were set. A mask over 10 kB would want numpy,
  whose import costs more than all such messages of a worker's life: it says nothing longer than a few hundred bytes.
{missing}"""


def write(path: Path, figures: Sequence[Figure], missing: Sequence[str]) -> None:
    left_out = "".join(f"\nNot measured in this run: {reason}." for reason in missing)
    path.write_text(PAGE.format(machine=machine(), table=table(figures), missing=left_out))
