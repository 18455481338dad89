"""A network below the byte-stream seam: ordinary AnyIO streams whose bytes take time and meet with faults.

One :class:`Line` per direction holds bytes with their arrival times; order is kept, as TCP keeps it.  Faults change
lines: latency, splitting into small pieces, stalls, an end in one direction, a reset with part of the bytes delivered.
Faults about messages (garbage, a doubled or delayed assignment) work on whole server frames, which are unmasked.

The streams keep a socket's promises: bounded buffers, one sender and one receiver at a time, closing wakes the peer,
what was sent before an orderly end can still be read.  tests/simulation/test_network.py has trio judge them.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from ._frames import WINDOW, FrameReader, is_assignment, split_frames
from ._weather import Weather

__all__ = ["Conditions", "Line", "SimConnection", "sim_pipe"]


class Conditions(Weather):
    """How a network behaves now; shared by all lines of one, changed by faults."""

    def __init__(self, rng: random.Random, now: Callable[[], float]) -> None:
        super().__init__()
        self.rng = rng
        self.now = now
        self.assignment = b""
        """The last assignment that a server sent, as a frame."""


class Line:
    """One direction of a connection."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._queue: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self.peak = 0
        """The most bytes that were ever on their way."""
        self._last_arrival = -math.inf
        self._stalled_until = -math.inf
        self._choked_until = -math.inf
        self._on_held: Callable[[], None] | None = None
        self._on_choked: Callable[[], None] | None = None
        self.ended = False
        """Nothing more will come: the sender said so, or a fault did in its place."""
        self.broken = False
        """Reset: nothing can be sent or received any more."""
        self.deaf = False
        """The receiver is gone."""
        self._reader: anyio.CancelScope | None = None
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None

    @property
    def full(self) -> bool:
        """Whether a sender has to wait."""
        return self._bytes >= WINDOW or self._conditions.now() < self._choked_until

    @property
    def ready(self) -> bool:
        """Whether a receiver need not wait."""
        return self.broken or (self.ended and not self._queue) or self._due_at() <= self._conditions.now()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._queue

    def put(self, data: bytes, delay: float = 0.0) -> None:
        """Send bytes off; what follows an end or a reset that a fault made is lost on the way."""
        conditions = self._conditions
        if self.ended or self.broken or not data:
            return
        if conditions.waiting:
            conditions.touch()
        if self._on_held is not None:
            self._hold()
        while data:
            size = conditions.rng.randint(1, 5) if conditions.dribble and len(data) < 4096 else len(data)
            piece, data = data[:size], data[size:]
            arrival = conditions.now() + delay + conditions.rng.uniform(*conditions.latency)
            self._last_arrival = max(self._last_arrival, arrival)
            self._queue.append((self._last_arrival, piece))
            self._bytes += len(piece)
        self.peak = max(self.peak, self._bytes)
        if self._reader is not None:
            # Moved, not woken: a reader that woke to find nothing would be a step for nothing.
            self._reader.deadline = self._due_at()

    def take(self, max_bytes: int) -> bytes:
        """What has arrived, at most so much; empty if nothing has."""
        now = self._conditions.now()
        taken = bytearray()
        while self._queue and self._due_at() <= now and len(taken) < max_bytes:
            _, piece = self._queue.popleft()
            room = max_bytes - len(taken)
            if len(piece) > room:
                self._queue.appendleft((now, piece[room:]))
            taken += piece[:room]
        self._bytes -= len(taken)
        if taken and self._room is not None:
            self._room.set()
        return bytes(taken)

    def _due_at(self) -> float:
        return max(self._queue[0][0], self._stalled_until) if self._queue else math.inf

    async def wait(self) -> None:
        """Wait until something arrives or changes."""
        self._news = anyio.Event()
        try:
            with anyio.CancelScope(deadline=self._due_at()) as self._reader:
                await self._news.wait()
        finally:
            self._reader = self._news = None

    async def wait_room(self) -> None:
        """Wait until there may be room again."""
        deadline = self._choked_until if self._conditions.now() < self._choked_until else math.inf
        if self._on_choked is not None and deadline < math.inf:
            met, self._on_choked = self._on_choked, None
            met()
        self._room = anyio.Event()
        try:
            with anyio.CancelScope(deadline=deadline):
                await self._room.wait()
        finally:
            self._room = None

    def change(self) -> None:
        """Wake whoever waits."""
        for event in (self._news, self._room):
            if event is not None:
                event.set()

    # ------------------------------------------------------------------------------------ faults

    def stall(self, until: float, met: Callable[[], None] | None = None) -> None:
        """Deliver nothing before ``until``; ``met`` is called once there is something to be held back."""
        self._stalled_until = max(self._stalled_until, until)
        self._on_held = met
        if self._queue and met is not None:
            self._hold()
        self.change()

    def _hold(self) -> None:
        met, self._on_held = self._on_held, None
        if met is not None and self._conditions.now() < self._stalled_until:
            met()

    def choke(self, until: float, met: Callable[[], None] | None = None) -> None:
        """Take nothing more before ``until``: the peer does not read, and all buffers are full.  ``met`` is called once
        somebody has to wait for that."""
        self._choked_until = max(self._choked_until, until)
        self._on_choked = met

    def heal(self) -> None:
        """End a stall and a choke."""
        self._stalled_until = self._choked_until = -math.inf
        self._on_held = self._on_choked = None
        self.change()

    def end(self) -> None:
        """An orderly end of this direction: what is on its way still arrives."""
        self.ended = True
        self.change()

    def reset(self, keep: int) -> None:
        """Break, with ``keep`` bytes of what is on its way delivered: often the middle of a frame."""
        kept = bytearray()
        while self._queue and len(kept) < keep:
            kept += self._queue.popleft()[1]
        self._queue.clear()
        self._bytes = 0
        if kept:
            self._queue.append((self._conditions.now(), bytes(kept[:keep])))
            self._bytes = min(len(kept), keep)
        self.broken = True
        self._stalled_until = -math.inf
        self.change()


class _SimStream(ByteStream):
    """One end."""

    def __init__(self, connection: SimConnection, outgoing: Line, incoming: Line, *, server: bool) -> None:
        self._connection = connection
        self._outgoing = outgoing
        self._incoming = incoming
        self._server = server
        self._closed = False
        self._eof_sent = False
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")

    async def send(self, item: bytes) -> None:
        with self._sending:
            await anyio.lowlevel.checkpoint()
            self._check()
            while self._outgoing.full:
                await self._outgoing.wait_room()
                self._check()
            if item:
                self._connection.transmit(self._outgoing, bytes(item), server=self._server)

    def _check(self) -> None:
        if self._closed or self._eof_sent:
            raise anyio.ClosedResourceError
        if self._outgoing.broken or self._outgoing.deaf:
            raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with self._receiving:
            await anyio.lowlevel.checkpoint_if_cancelled()
            line = self._incoming
            if self._closed or line.ready:
                await anyio.lowlevel.cancel_shielded_checkpoint()  # else the wait below is one
            while True:
                if self._closed:
                    raise anyio.ClosedResourceError
                if data := line.take(max_bytes):
                    self._connection.delivered(data, server=self._server)
                    return data
                if line.broken:
                    raise anyio.BrokenResourceError
                if line.ended and line.idle:
                    raise anyio.EndOfStream
                await line.wait()

    async def send_eof(self) -> None:
        with self._sending:
            await anyio.lowlevel.checkpoint()
            if self._closed:
                raise anyio.ClosedResourceError
            self._eof_sent = True
            self._outgoing.end()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._outgoing.end()
            self._incoming.deaf = True
            self._incoming.change()
            self._connection.closed(server=self._server)
        await anyio.lowlevel.checkpoint()


class SimConnection:
    """Both directions of one connection, and the faults that strike it."""

    def __init__(
        self,
        label: str,
        conditions: Conditions,
        *,
        on_delivery: Callable[[SimConnection, str, int, tuple[str, ...]], None] | None = None,
        on_frame: Callable[[SimConnection, str, str], None] | None = None,
        on_fault: Callable[[SimConnection, str, float], None] | None = None,
        on_leave: Callable[[SimConnection, str], None] | None = None,
        on_close: Callable[[SimConnection], None] | None = None,
    ) -> None:
        """``on_delivery``: told (connection, ``up`` or ``down``, size, kinds of what is complete).  ``on_frame``: told
        (connection, end, kind) of each control frame that an end sends, and of every frame behind its Close.
        ``on_fault``: told (connection, what, for how long) breaks it.  ``on_leave``: told (connection, end) that an
        end was closed; ``on_close``: both are."""
        self.label = label
        self.up, self.down = Line(conditions), Line(conditions)
        """From the worker, and from the server."""
        self.open = True
        self._conditions = conditions
        self._on_delivery = on_delivery
        self._on_frame = on_frame
        self._on_fault = on_fault
        self._on_leave = on_leave
        self._on_close = on_close
        # What each end sends, and what arrives: a fault may lie between.
        self._sent = {end: FrameReader(server=end) for end in (False, True)}
        self._arrived = {end: FrameReader(server=end) for end in (False, True)}
        self._closes = {False: False, True: False}
        self._open_ends = 2
        self._edits: list[Callable[[list[bytes]], list[bytes] | None]] = []
        self._talking = False  # the 101 has passed: what follows from the server is frames
        self.client: ByteStream = _SimStream(self, self.up, self.down, server=False)
        self.server: ByteStream = _SimStream(self, self.down, self.up, server=True)

    def transmit(self, line: Line, data: bytes, *, server: bool) -> None:
        """Put what an end sends on its line; server frames pass the armed edits."""
        if self._on_frame is not None:
            self._tell_frames(self._sent[server].feed(data), server=server)
        if not server:
            line.put(data)
            return
        if not self._talking:
            self._talking = True
            line.put(data)
            return
        if (frames := split_frames(data)) is not None:
            for frame in frames:
                if is_assignment(frame):
                    self._conditions.assignment = frame
            for edit in list(self._edits):
                edited = edit(frames)
                if edited is not None:
                    frames = edited
                    self._edits.remove(edit)
            data = b"".join(frames)
        line.put(data)

    def _tell_frames(self, kinds: tuple[str, ...], *, server: bool) -> None:
        assert self._on_frame is not None
        for kind in kinds:
            if kind in ("close", "ping", "pong", "open") or self._closes[server]:
                self._on_frame(self, f"s:{self.label}" if server else self.label, kind)
            self._closes[server] |= kind == "close"

    def delivered(self, data: bytes, *, server: bool) -> None:
        """An end has received bytes."""
        if self._on_delivery is not None:
            kinds = self._arrived[not server].feed(data)
            self._on_delivery(self, "up" if server else "down", len(data), kinds)

    def closed(self, *, server: bool) -> None:
        """An end was closed."""
        self.open = False
        self._open_ends -= 1
        if self._on_leave is not None:
            self._on_leave(self, f"s:{self.label}" if server else self.label)
        if self._open_ends == 0 and self._on_close is not None:
            self._on_close(self)

    def _struck(self, how: str, seconds: float = 0.0) -> None:
        if self._on_fault is not None:
            self._on_fault(self, how, seconds)

    @property
    def request_head(self) -> bytes:
        """The worker's upgrade request."""
        return self._sent[False].head

    # ------------------------------------------------------------------------------------ faults

    def reset(self) -> None:
        """Break both directions, part of the bytes on their way delivered."""
        self._struck("reset")
        for line in (self.up, self.down):
            line.reset(self._conditions.rng.randint(0, 60))

    def half_close(self, *, up: bool) -> None:
        """End one direction."""
        self._struck("half_close")
        (self.up if up else self.down).end()

    def choke(self, seconds: float, now: float, met: Callable[[], None] | None = None) -> None:
        """Have the worker's writes block: the server reads nothing, and all buffers between are full."""
        self._struck("choke", seconds)
        self.up.choke(now + seconds, met)

    def inject(self, data: bytes) -> bool:
        """Have the worker receive bytes that the server did not send, between two of its frames."""
        if not self._talking or self.down.broken or self.down.ended:
            return False
        self.down.put(data)
        return True

    def edit_next(self, edit: Callable[[list[bytes]], list[bytes] | None]) -> None:
        """Offer every later batch of server frames to ``edit`` until it changes one."""
        self._edits.append(edit)


def sim_pipe(conditions: Conditions) -> tuple[ByteStream, ByteStream]:
    """Two connected ends, for tests of the streams themselves."""
    connection = SimConnection("pipe", conditions)
    return connection.client, connection.server
