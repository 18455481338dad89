"""Applying faults to a world: one method per kind, named after it.

A fault method returns whether it took effect; only then is it counted.  Kinds that wait for their chance (a refused
connect needs a connect, a stall needs bytes that it holds back) note their effect later, through ``self.took_effect``,
and are never counted where nothing met with them.  A fault with ``when`` strikes at the
first moment from ``at`` on in which its worker is in that state: uniform instants would hardly ever hit a handshake
that takes a millisecond.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from .._errors import RoomError
from ._frames import is_assignment
from ._scenario import FAULT_KINDS, Fault
from ._trace import Note

if TYPE_CHECKING:
    from ._network import SimConnection
    from ._seat import Seat
    from ._world import World

__all__ = ["FaultDriver"]

_HTTP_ERRORS = (404, 429, 503)
_AUTH_ERRORS = (401, 403)

#: What a newer server might say, as payloads of ServerMessage: each must be skipped.
_UNKNOWN: Mapping[str, bytes] = {
    "empty": b"",
    "unknown variant": b"\x7a\x00",
    "unknown field": b"\x22\x03\xf8\x7f\x01",
    "offer of an unknown type": b"\x12\x0b\x0a\x09\x0a\x05AJ_no\x10\x09",
}


#: Notes at which a worker's state is looked at.  Frames are among them for what says nothing while it lasts, above all
#: a join that hangs: the server pings.
_TELLING = ("say", "hear", "handler", "closed", "frame", "event")


class FaultDriver:
    """Strikes as the scenario plans until the world heals."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[Fault] = []
        self._counted: dict[int, Fault] = {}
        """By id, with the fault itself: were it gone, another could be born under its id and never count."""
        self._joins: deque[Fault] = deque()
        """Faults of joins that nobody has met with yet, in the order in which they will be."""
        self._interrupted: dict[tuple[str, str], float] = {}
        """Until when whose connection to a room is broken."""
        world.rooms.on_scripted = self._join_met
        world.trace.observe(self._look)

    async def run(self) -> None:
        """Strike at the planned instants."""
        world = self._world
        for fault in world.scenario.faults:
            await anyio.sleep_until(max(fault.at, world.now()))
            if world.healed:
                return
            if fault.when:
                self._waiting.append(fault)
            else:
                self.strike(fault)

    def heal(self) -> None:
        """End everything: conditions are good again, stalls are over, scripted joins are forgotten."""
        world = self._world
        self._waiting.clear()
        world.conditions.clear()
        for seat in world.seats:
            seat.refuse_until = seat.hang_until = world.now()
            seat.refusals = [(until, status) for until, status in seat.refusals if until == math.inf]
            seat.skews.clear()
            seat.on_dial.clear()
            if seat.connection is not None:
                for line in (seat.connection.up, seat.connection.down):
                    line.heal()
        world.rooms.forget_script()
        self._joins.clear()
        for agent in list(self._interrupted):
            self._restore(agent)

    # ------------------------------------------------------------------------------------ striking

    def _look(self, note: Note) -> None:
        """Strike what waits for a worker's state, now that something happened."""
        if not self._waiting or note.what not in _TELLING:
            return
        for fault in list(self._waiting):
            seat = self._seat(fault)
            if note.who.removeprefix("s:").startswith(f"w{seat.index}.") and fault.when in seat.states():
                self._waiting.remove(fault)
                if FAULT_KINDS[fault.kind].on == "network":
                    self.strike(fault)
                else:
                    # Notes are written inside calls of cores and ledgers, which must not be called from there.
                    self._world.tasks.start_soon(self._strike_soon, fault)

    async def _strike_soon(self, fault: Fault) -> None:
        if not self._world.healed:
            self.strike(fault)

    def strike(self, fault: Fault) -> None:
        """Apply a fault now."""
        states = self._seat(fault).states()
        method: Callable[[Fault], bool] = getattr(self, f"_{fault.kind}")
        if method(fault):
            self.took_effect(fault, states)

    def took_effect(self, fault: Fault, states: tuple[str, ...] = ()) -> None:
        """Count a fault, once."""
        key = id(fault)
        if key not in self._counted:
            self._counted[key] = fault
            self._world.faults += 1
            self._world.note("world", "fault", fault.kind, "", target=fault.target, states=states)

    def _effect(self, fault: Fault) -> Callable[[], None]:
        """What to call when something meets with a fault that has begun."""
        return lambda: self.took_effect(fault, self._seat(fault).states())

    def _seat(self, fault: Fault) -> Seat:
        return self._world.seats[fault.target % len(self._world.seats)]

    def _connection(self, fault: Fault) -> SimConnection | None:
        connection = self._seat(fault).connection
        return connection if connection is not None and connection.open else None

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        async def wait() -> None:
            if await self._world.chaos_lasts(seconds):
                action()

        self._world.tasks.start_soon(wait)

    # ------------------------------------------------------------------------------------ network

    def _latency(self, fault: Fault) -> bool:
        return self._turn(fault, latency=0.05 + fault.value % 1000 / 1000)

    def _dribble(self, fault: Fault) -> bool:
        return self._turn(fault, dribble=True)

    def _turn(self, fault: Fault, *, latency: float = 0.0, dribble: bool = False) -> bool:
        """The weather turns for a while."""
        end = self._world.conditions.begin(latency=latency, dribble=dribble, met=self._effect(fault))
        self._later(fault.seconds, end)
        return False

    def _stall(self, fault: Fault) -> bool:
        connection = self._connection(fault)
        if connection is not None:
            line = connection.up if fault.value % 2 else connection.down
            line.stall(self._world.now() + fault.seconds, self._effect(fault))
        return False

    def _hang(self, fault: Fault) -> bool:
        connection = self._connection(fault)
        if connection is None:
            return False
        for line in (connection.up, connection.down):
            line.stall(self._world.now() + fault.seconds)
        return True

    def _half_close(self, fault: Fault) -> bool:
        connection = self._connection(fault)
        if connection is None or (connection.up if fault.value % 2 else connection.down).ended:
            return False
        connection.half_close(up=bool(fault.value % 2))
        return True

    def _choke(self, fault: Fault) -> bool:
        connection = self._connection(fault)
        if connection is not None:
            connection.choke(fault.seconds, self._world.now(), self._effect(fault))
        return False

    def _reset(self, fault: Fault) -> bool:
        connection = self._connection(fault)
        if connection is None:
            return False
        connection.reset()
        return True

    def _late_pong(self, fault: Fault) -> bool:
        connection = self._connection(fault)
        if connection is not None:
            connection.down.stall(self._world.now() + fault.seconds, self._effect(fault))
        return False

    def _refuse_connect(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        seat.refuse_until = max(seat.refuse_until, self._world.now() + fault.seconds)
        return self._on_dial(fault, seat, "refuse_connect")

    def _hang_connect(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        seat.hang_until = max(seat.hang_until, self._world.now() + fault.seconds)
        return self._on_dial(fault, seat, "hang_connect")

    def _http_error(self, fault: Fault) -> bool:
        return self._refuse_upgrade(fault, _HTTP_ERRORS[fault.value % len(_HTTP_ERRORS)])

    def _unauthorized(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        if fault.value % 4 == 0 and self._world.can_spare(seat):
            # Refused for good.
            seat.barred = True
            fault = replace(fault, seconds=math.inf)
        return self._refuse_upgrade(fault, _AUTH_ERRORS[fault.value % len(_AUTH_ERRORS)])

    def _refuse_upgrade(self, fault: Fault, status: int) -> bool:
        seat = self._seat(fault)
        if any(until == math.inf for until, _ in seat.refusals):
            return False  # refused for good already
        seat.refusals.append((self._world.now() + fault.seconds, status))
        return self._on_dial(fault, seat, "http")

    def _clock_skew(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        skew = (-1) ** fault.value * (120.0 + fault.value % 600)
        seat.skews.append(skew)
        self._later(fault.seconds, lambda: seat.skews.remove(skew))
        return self._on_dial(fault, seat, "clock_skew")

    def _on_dial(self, fault: Fault, seat: Seat, how: str) -> bool:
        """Break the connection, so that there is a dial to meet with the fault; it counts when it did."""
        until = self._world.now() + fault.seconds  # a later fault of the kind is not this one

        def listener(met: str) -> None:
            if met == how and self._world.now() <= until:
                self.took_effect(fault, seat.states())

        seat.on_dial.append(listener)
        if seat.connection is not None:
            seat.connection.reset()
        return False

    def _garbage(self, fault: Fault) -> bool:
        rng = random.Random(f"garbage:{fault.value}")
        body = rng.randbytes(rng.randint(1, 40))
        # Mostly whole binary frames that hold nonsense; sometimes a broken frame header.
        frame = bytes([0x82, len(body)]) + body if fault.value % 4 else b"\xff" + body
        return self._inject(fault, "garbage", frame, harmless=False)

    def _unknown_message(self, fault: Fault) -> bool:
        worker = self._seat(fault).worker
        if worker is None or not worker.worker_id:
            return False  # before the registration an offer would rightly be a fault
        name = tuple(_UNKNOWN)[fault.value % len(_UNKNOWN)]
        body = _UNKNOWN[name]
        return self._inject(fault, name, bytes([0x82, len(body)]) + body, harmless=True)

    def _stray_assignment(self, fault: Fault) -> bool:
        frame = self._world.conditions.assignment
        return bool(frame) and self._inject(fault, "assignment", frame, harmless=False)

    def _inject(self, fault: Fault, kind: str, frame: bytes, *, harmless: bool) -> bool:
        connection = self._connection(fault)
        if connection is None or not connection.inject(frame):
            return False
        self._world.note("net", "inject", kind, "", connection=connection.label, harmless=harmless)
        return True

    def _double_assignment(self, fault: Fault) -> bool:
        def edit(frames: list[bytes]) -> list[bytes] | None:
            if not any(is_assignment(frame) for frame in frames):
                return None
            self.took_effect(fault, self._seat(fault).states())
            return [copy for frame in frames for copy in ([frame, frame] if is_assignment(frame) else [frame])]

        return self._edit(fault, edit)

    def _reordered_assignment(self, fault: Fault) -> bool:
        held: list[bytes] = []

        def edit(frames: list[bytes]) -> list[bytes] | None:
            found = [frame for frame in frames if is_assignment(frame)]
            if found and not held:
                held.extend(found)
                frames[:] = [frame for frame in frames if frame not in found]
                return None
            if held and frames:
                self.took_effect(fault, self._seat(fault).states())
                return [*frames, *held]
            return None

        return self._edit(fault, edit)

    def _edit(self, fault: Fault, edit: Callable[[list[bytes]], list[bytes] | None]) -> bool:
        connection = self._connection(fault)
        if connection is not None:
            connection.edit_next(edit)
        return False

    # ------------------------------------------------------------------------------------ server

    def _restart(self, fault: Fault) -> bool:
        return self._world.kill_server(fault.seconds)

    def _go_away(self, fault: Fault) -> bool:
        seat, server = self._seat(fault), self._world.server
        if server is None or seat.worker is None or not seat.worker.worker_id:
            return False
        return server.go_away(seat.worker.worker_id, "simulated")

    def _delete_dispatch(self, fault: Fault) -> bool:
        world = self._world
        if world.server is None or not world.dispatches:
            return False
        room, dispatch_id = world.dispatches.pop(-1 - fault.value % min(len(world.dispatches), 3))
        return world.server.delete_dispatch(room, dispatch_id) is not None

    # ------------------------------------------------------------------------------------ worker

    def _drain(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        if seat.worker is None or seat.worker.draining:
            return False
        seat.pause = fault.seconds
        self._world.stop(seat, self._tie(seat) if fault.value % 3 == 0 else None)
        return True

    def _tie(self, seat: Seat) -> float | None:
        """A time-out whose deadline is the very instant at which a job of the worker ends by itself."""
        now = self._world.now()
        for index, end in self._world.ends.values():
            timeout = end - now
            if index == seat.index and timeout > 0 and now + timeout == end:
                return timeout
        return None

    def _stop_again(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        if seat.worker is None or not seat.worker.draining:
            return False
        self._world.stop(seat, (0.0, 0.5, 3.0, 60.0)[fault.value % 4])
        return True

    def _cancel(self, fault: Fault) -> bool:
        seat = self._seat(fault)
        if seat.worker is None or seat.scope is None:
            return False
        seat.pause = fault.seconds
        self._world.note(seat.label, "worker", "cancel")
        seat.scope.cancel()
        return True

    # ------------------------------------------------------------------------------------ rooms

    def _join_refused(self, fault: Fault) -> bool:
        self._world.rooms.refuse_next()
        self._joins.append(fault)
        return False

    def _join_hangs(self, fault: Fault) -> bool:
        self._world.rooms.hang_next()
        self._joins.append(fault)
        return False

    def _join_met(self) -> None:
        fault = self._joins.popleft()
        self.took_effect(fault, self._seat(fault).states())

    def _agent(self, fault: Fault) -> tuple[str, str] | None:
        agents = list(self._world.agents.values())
        return agents[fault.target % len(agents)] if agents else None

    def _strike_agent(self, fault: Fault, verb: Callable[[str, str], object]) -> bool:
        agent = self._agent(fault)
        if agent is None:
            return False
        try:
            return verb(*agent) is not False
        except RoomError:
            return False  # it has just left

    def _room_lost(self, fault: Fault) -> bool:
        return self._strike_agent(fault, self._world.rooms.lose)

    def _room_interrupted(self, fault: Fault) -> bool:
        agent = self._agent(fault)
        if agent is None:
            return False
        until = self._world.now() + fault.seconds
        if agent in self._interrupted:
            if until <= self._interrupted[agent]:
                return False  # it is broken for longer already
        elif not self._strike_agent(fault, self._world.rooms.interrupt):
            return False
        self._interrupted[agent] = until
        self._later(fault.seconds, lambda: self._restore_in_time(agent, until))
        return True

    def _restore_in_time(self, agent: tuple[str, str], until: float) -> None:
        if self._interrupted.get(agent) == until:  # else another interruption goes on
            self._restore(agent)

    def _restore(self, agent: tuple[str, str]) -> None:
        del self._interrupted[agent]
        with suppress(RoomError):  # the agent may have left meanwhile
            self._world.rooms.restore(*agent)

    def _duplicate_identity(self, fault: Fault) -> bool:
        agent = self._agent(fault)
        if agent is None:
            return False

        async def impostor() -> None:
            try:
                room = await self._world.rooms.join(*agent)
                self._world.people[f"impostor-{id(fault)}"] = room
            except RoomError:
                pass  # the room has been closed

        self._world.tasks.start_soon(impostor)
        return True

    def _removed(self, fault: Fault) -> bool:
        return self._strike_agent(fault, self._world.rooms.remove_participant)

    def _room_closed(self, fault: Fault) -> bool:
        agent = self._agent(fault)
        return agent is not None and self._world.rooms.delete_room(agent[0])

    def _event_storm(self, fault: Fault) -> bool:
        agent = self._agent(fault)
        if agent is None:
            return False
        rooms = self._world.rooms
        try:
            for number in range(300):
                rooms.send_data(agent[0], b"storm", topic=str(number))
                if number % 10 == 0:
                    rooms.update_room_metadata(agent[0], str(number))
        except RoomError:
            return False
        return True


_MISSING = [kind for kind in FAULT_KINDS if not hasattr(FaultDriver, f"_{kind}")]
assert not _MISSING, _MISSING
