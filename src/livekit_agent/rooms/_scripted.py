"""A participant that follows a script: it says this at 3 s and leaves at 9 s.

For tests and demonstrations: people in a room, without writing a task for each.  A script is a list of lines, each with
its second; one driver goes through them in that order (lines of the same second in the order of writing) and speaks
through an ordinary :class:`Room`, so whatever a script does, a real participant could do.  Playing a sound takes as
long as the sound, beside the lines that follow; leaving cuts it short.  Under virtual time all of it is exact.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from .. import events
from .._errors import RoomError
from .._types import NO_ATTRIBUTES, ParticipantPermissions
from ._audio import AudioSource
from ._enums import ParticipantKind
from ._room import Room
from ._tracks import LocalTrackPublication

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["ScriptedParticipant"]


@dataclass(frozen=True, slots=True)
class _Line:
    at: float
    number: int
    act: Callable[[_Performance], Awaitable[object]]


class _Performance:
    """One participant on stage."""

    def __init__(self, rooms: MemoryRooms, room: Room, group: anyio.abc.TaskGroup) -> None:
        self.rooms = rooms
        self.room = room
        self.group = group
        self.voice: LocalTrackPublication[AudioSource] | None = None

    async def source(self) -> AudioSource:
        """Where sounds go; published by the first."""
        if self.voice is None:
            self.voice = await self.room.local_participant.publish_audio(name="voice")
        return self.voice.track.source

    def published(self) -> LocalTrackPublication[AudioSource]:
        """What the first sound has published."""
        if self.voice is None:
            raise RoomError("nothing has been played yet", hint="publishes(at) or plays(at, sound) comes first")
        return self.voice


class ScriptedParticipant:
    """Somebody in a room in memory who follows a script.

    Each line is a method that takes its second, counted from :meth:`perform`, and returns the participant, so lines
    chain::

        caller = ScriptedParticipant("caller").plays(3, "question.wav").sends(5, b"typing").leaves(9)
        async with anyio.create_task_group() as group:
            group.start_soon(caller.perform, rooms, "lobby")

    It joins at 0, or where :meth:`joins` says, and leaves where :meth:`leaves` says, else after its last line.
    :attr:`heard` are the events that it saw.
    """

    def __init__(
        self,
        identity: str,
        *,
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        permissions: ParticipantPermissions | None = None,
        kind: int = ParticipantKind.STANDARD,
    ) -> None:
        self.identity = identity
        self._card: dict[str, Any] = {
            "name": name, "metadata": metadata, "attributes": attributes, "permissions": permissions, "kind": kind,
        }  # fmt: skip
        self._lines: list[_Line] = []
        self._joins_at = 0.0
        self._leaves_at: float | None = None
        self.heard: list[events.RoomEvent] = []
        """What it was told, in order; at most as many as a subscription holds are kept between two lines."""
        self.room: Room | None = None
        """Its room, from the moment it has joined."""

    # --- lines ----------------------------------------------------------------------------------------------------

    def joins(self, at: float) -> ScriptedParticipant:
        """Come at that second rather than at 0."""
        self._joins_at = _second(at)
        return self

    def leaves(self, at: float) -> ScriptedParticipant:
        """Go at that second, whatever is still being played."""
        self._leaves_at = _second(at)
        return self

    def publishes(self, at: float) -> ScriptedParticipant:
        """Publish the audio track that sounds go to; the first sound does it otherwise."""
        return self.does(at, lambda stage: stage.source())

    def plays(
        self, at: float, sound: str | os.PathLike[str] | Any, *, sample_rate: int | None = None
    ) -> ScriptedParticipant:
        """Play a WAV file or samples (see :meth:`AudioSource.play`); sounds that overlap come one after another."""

        async def play(stage: _Performance) -> None:
            source = await stage.source()
            stage.group.start_soon(lambda: source.play(sound, sample_rate=sample_rate))

        return self.does(at, play)

    def mutes(self, at: float) -> ScriptedParticipant:
        """Mute its sound."""

        async def mute(stage: _Performance) -> None:
            stage.published().mute()

        return self.does(at, mute)

    def unmutes(self, at: float) -> ScriptedParticipant:
        """Let it be heard again."""

        async def unmute(stage: _Performance) -> None:
            stage.published().unmute()

        return self.does(at, unmute)

    def sends(
        self, at: float, data: bytes | str, *, topic: str = "", reliable: bool = True, to: Sequence[str] = ()
    ) -> ScriptedParticipant:
        """Send a data packet."""
        return self.does(
            at,
            lambda stage: stage.room.local_participant.publish_data(
                data, topic=topic, reliable=reliable, destination_identities=to
            ),
        )

    def writes(self, at: float, text: str, *, topic: str = "lk.chat", to: Sequence[str] = ()) -> ScriptedParticipant:
        """Send a text stream."""
        return self.does(
            at, lambda stage: stage.room.local_participant.send_text(text, topic=topic, destination_identities=to)
        )

    def tells(self, at: float, **attributes: str) -> ScriptedParticipant:
        """Change its attributes."""
        return self.does(at, lambda stage: stage.room.local_participant.set_attributes(attributes))

    def loses_connection(self, at: float, *, until: float, resume: bool = True) -> ScriptedParticipant:
        """Be reconnecting between these seconds; ``resume`` as in :meth:`MemoryRooms.restore`."""
        identity = self.identity

        async def interrupt(stage: _Performance) -> None:
            stage.rooms.interrupt(stage.room.name, identity)

        async def restore(stage: _Performance) -> None:
            stage.rooms.restore(stage.room.name, identity, resume=resume)

        return self.does(at, interrupt).does(until, restore)

    def does(self, at: float, act: Callable[[Any], Awaitable[object]]) -> ScriptedParticipant:
        """Anything else: ``act`` gets an object with ``room``, the :class:`Room`, and ``rooms``, all of them."""
        self._lines.append(_Line(_second(at), len(self._lines), act))
        return self

    # --- on stage ---------------------------------------------------------------------------------------------------

    async def perform(self, rooms: MemoryRooms, room: str) -> None:
        """Follow the script to its end, or until it is thrown out.

        Cancelled: it leaves at once.  What a line raises comes out of here.
        """
        started = rooms.now()
        lines = sorted(self._lines, key=lambda line: (line.at, line.number))
        await anyio.sleep_until(started + self._joins_at)
        # Left in a finally of its own: also when somebody else has ended the room.
        self.room = await rooms.join(room, self.identity, **self._card)
        try:
            with self.room.subscribe(replay=True) as told:
                try:
                    async with anyio.create_task_group() as group:
                        stage = _Performance(rooms, self.room, group)
                        for line in lines:
                            if self._leaves_at is not None and line.at > self._leaves_at:
                                break
                            await anyio.sleep_until(started + line.at)
                            self.heard += iter(told.next_nowait, None)
                            if not self.room.is_open:
                                break
                            await line.act(stage)
                        if self._leaves_at is not None:
                            await anyio.sleep_until(started + self._leaves_at)
                            group.cancel_scope.cancel()
                finally:
                    self.heard += iter(told.next_nowait, None)
        finally:
            await self.room.disconnect()

    def __repr__(self) -> str:
        return f"<ScriptedParticipant {self.identity!r}: {len(self._lines)} lines>"


def _second(at: float) -> float:
    if not at >= 0:
        raise ValueError(f"a line stands at a second from 0 on, not at {at}")
    return float(at)
