"""``livekit-agent join ROOM``: a participant in the terminal.

Lines that are typed are said as chat; what begins with a slash is a command.  Whatever happens in the room is shown, in
words or, for scripts, as one JSON object a line.  Rooms of an embedded server and real ones are the same to it: the
server is asked which it has.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import click

from .._bounds import SHOWN_TEXT_BYTES_MAX
from .._errors import AgentError, ConnectionLostError, RoomClosedError, printable
from ..config import Config
from ._help import Command, Option
from ._options import Duration, backend_option, check_sound, connection_options, log_option, read_config

if TYPE_CHECKING:
    from .. import events
    from ..rooms import AudioSource, LocalTrackPublication, Room, TextStreamReader

__all__ = ["join"]

CHAT, TRANSCRIPTION = "lk.chat", "lk.transcription"
PATIENCE_S, LISTEN_S = 5.0, 0.5
READ_BYTES = 4096
HELP = "/data TEXT  /play FILE.wav  /mute  /unmute  /who  /quit; anything else is said as chat"


def _option(*names: str, section: str = "Participant", **kwargs: Any) -> Any:
    return click.option(*names, cls=Option, section=section, **kwargs)


@click.command(cls=Command, epilog=f"When it reads lines: {HELP}.")
@click.argument("room")
@_option("--identity", default="terminal", default_text="terminal", metavar="TEXT", help="Who joins.")
@_option("--name", default="", metavar="TEXT", help="The name that others see.")
@_option("--say", multiple=True, metavar="TEXT", section="Script", help="Say it as chat; may be given several times.")
@_option("--data", multiple=True, metavar="TEXT", section="Script", help="Send it as a data packet; may be repeated.")
@_option("--play", metavar="FILE", type=click.Path(exists=True), section="Script", help="Play a WAV file.")
@_option("--for", "seconds", type=Duration(), section="Script", help="Leave after so long.")
@_option("--json", "as_json", is_flag=True, section="Output", help="One JSON object a line.")
@connection_options
@log_option
@backend_option
def join(room: str, identity: str, name: str, as_json: bool, backend: str, **flags: Any) -> int:
    """Join ROOM, and talk to whoever is there.

    Without --say, --data, --play and --for it reads lines from the terminal until /quit or its end.  With them it does
    what they say, in this order, and leaves; in an empty room it waits up to 5 s for somebody to say it to.
    """
    import anyio

    from ._exit import only
    from ._logging import set_up_logging

    if not room or not identity:
        raise click.UsageError("ROOM and --identity: expected a name; a server lets nobody in without")
    if flags["play"] is not None:
        check_sound(flags["play"])
    config = read_config(flags)
    only(config, "url", "api_key", "api_secret")
    set_up_logging(config.log_level)
    script = {key: flags[key] for key in ("say", "data", "play", "seconds")}
    terminal = Terminal(script, as_json)
    token = _token(config, room, identity, name)
    anyio.run(terminal.run, config, token, bool(flags.get("allow_plaintext")), backend=backend)
    return 0


def _token(config: Config, room: str, identity: str, name: str) -> str:
    from ..protocol import mint_token

    grants = {"room": room, "roomJoin": True, "canPublish": True, "canSubscribe": True, "canPublishData": True}
    return mint_token(config.api_key, config.api_secret, wall=time.time(), video=grants, identity=identity, name=name)


class Terminal:
    """One participant, its script or its keyboard, and what it shows."""

    def __init__(self, script: dict[str, Any], as_json: bool) -> None:
        self._script = script
        self._json = as_json
        self._source: AudioSource | None = None
        self._track: LocalTrackPublication[AudioSource] | None = None

    async def run(self, config: Config, token: str, allow_plaintext: bool) -> None:
        """Be in the room until the script is done, the keyboard's end, a signal, or the room's end."""
        import anyio

        from ..runtime._rooms import ServerRooms
        from ..runtime._transport import NetworkConnector

        connector = NetworkConnector(ca_file=config.ca_file or None, proxy=config.proxy)
        async with ServerRooms(config.url, connector=connector, allow_plaintext=allow_plaintext) as rooms:
            async with await rooms.join(token) as room, anyio.create_task_group() as tasks:
                # All of these before anything is awaited: nothing that happens in the room is missed.
                watched = room.subscribe(replay=True)
                topics = [room.text_streams(CHAT), room.text_streams(TRANSCRIPTION)]
                self._show("joined", f"in room {room.name!r} as {room.local_participant.identity!r}", room=room.name)
                tasks.start_soon(self._leave_at_a_signal, tasks.cancel_scope)
                for streams in topics:
                    tasks.start_soon(self._hear_streams, streams, tasks)
                tasks.start_soon(self._act, room, tasks.cancel_scope)
                ended = await self._watch(room, watched)
                tasks.cancel_scope.cancel()
                if ended == 0:
                    raise ConnectionLostError("the connection to the room is lost")

    async def _leave_at_a_signal(self, everything: Any) -> None:
        import anyio

        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                everything.cancel()
                return

    # --- what is shown --------------------------------------------------------------------------------------------

    def _show(self, event: str, shown: str, /, **fields: object) -> None:
        if self._json:
            click.echo(json.dumps({"event": event, **fields}))
        else:
            click.echo(shown)

    def _shout(self, event: str, who: str, text: str, *, how: str = ":") -> None:
        """What somebody said; a terminal is shown no control characters."""
        self._show(event, f"{printable(who)}{how} {printable(text, 2_000)}", identity=who, text=text)

    async def _watch(self, room: Room, watched: Any) -> int:
        """Show what happens until the room is over; the reason of its end."""
        from .. import events

        async for event in watched:
            match event:
                case events.ParticipantJoined(participant=person, existing=existing):
                    what = "is here" if existing else "joined"
                    self._show("participant_joined", f"* {printable(person.identity)} {what}", identity=person.identity)
                case events.ParticipantLeft(participant=person):
                    self._show("participant_left", f"* {printable(person.identity)} left", identity=person.identity)
                case events.ActiveSpeakersChanged(speakers=speakers):
                    names = [person.identity for person in speakers]
                    said = f"* speaking: {printable(', '.join(names))}" if names else "* nobody speaks"
                    self._show("speakers", said, identities=names)
                case events.DataReceived():
                    self._show_data(event)
                case events.ChatReceived(identity=identity, message=message):
                    self._shout("chat", identity, message.text)
                case events.TranscriptionReceived(identity=identity, segments=segments):
                    self._shout("transcription", identity, " ".join(part.text for part in segments), how=" (said):")
                case events.Disconnected(reason=reason):
                    self._show("left", f"* the room is over ({_reason(reason)})", reason=reason)
                    return reason
                case _:
                    pass
        return -1

    def _show_data(self, event: events.DataReceived) -> None:
        text = event.data.decode(errors="replace")
        how = f" [{printable(event.topic, 80)}]:" if event.topic else " [data]:"
        who = event.identity or "somebody"
        line = f"{printable(who)}{how} {printable(text, 2_000)}"
        self._show("data", line, identity=who, text=text, topic=event.topic)

    async def _hear_streams(self, streams: Any, tasks: Any) -> None:
        with streams:
            async for reader in streams:
                tasks.start_soon(self._hear_stream, reader)

    async def _hear_stream(self, reader: TextStreamReader) -> None:
        try:
            text = await reader.read_all(SHOWN_TEXT_BYTES_MAX)
        except AgentError as error:
            self._show(
                "failed", f"! a message of {printable(reader.sender_identity)}: {error.message}", error=str(error)
            )
            return
        if reader.info.topic == TRANSCRIPTION:
            self._shout("transcription", reader.sender_identity, text, how=" (said):")
        else:
            self._shout("chat", reader.sender_identity, text)

    # --- what is done ---------------------------------------------------------------------------------------------

    async def _act(self, room: Room, everything: Any) -> None:
        import anyio

        script = self._script
        began = anyio.current_time()
        if any(value or value == 0.0 for value in script.values()):  # --for 0 is a script too
            if script["say"] or script["data"] or script["play"]:
                await self._wait_for_somebody(room)
            for text in script["say"]:
                await self._say(room, text)
            for text in script["data"]:
                await self._data(room, text)
            if script["play"]:
                await self._play(room, script["play"])
            if script["seconds"] is not None:
                await anyio.sleep_until(began + script["seconds"])
        else:
            async with aclosing(lines_of(sys.stdin.fileno())) as lines:
                async for line in lines:
                    if not await self._obey(room, line.strip()):
                        break
        await room.disconnect()

    async def _wait_for_somebody(self, room: Room) -> None:
        """What is said in an empty room is heard by nobody; an agent comes a moment after the room was made."""
        import anyio

        if room.remote_participants:
            return
        seconds: float | None = self._script["seconds"]
        with suppress(TimeoutError, RoomClosedError):
            await room.wait_for_participant(
                active=True, timeout=PATIENCE_S if seconds is None else min(PATIENCE_S, seconds)
            )
            await anyio.sleep(LISTEN_S)  # it is in the room a moment before it listens

    async def _obey(self, room: Room, line: str) -> bool:
        """One line from the keyboard; False when it was the last."""
        word, _, rest = line.partition(" ")
        commands: dict[str, Callable[[Room, str], Awaitable[None]]] = {
            "/data": self._data, "/play": self._play, "/mute": self._mute, "/unmute": self._unmute, "/who": self._who,
        }  # fmt: skip
        if word == "/quit":
            return False
        try:
            if word in commands:
                await commands[word](room, rest.strip())
            elif word.startswith("/"):
                self._show("help", HELP)
            elif line:
                await self._say(room, line)
        except (AgentError, OSError, ValueError, EOFError) as error:
            # Of this line; the next may be better.  wave's own error for what is no sound file is among them.
            self._show("failed", f"! {printable(str(error))}", error=str(error))
        return True

    async def _say(self, room: Room, text: str) -> None:
        await room.local_participant.send_text(text, topic=CHAT)

    async def _data(self, room: Room, text: str) -> None:
        await room.local_participant.publish_data(text)

    async def _play(self, room: Room, path: str) -> None:
        from ..rooms import AudioSource

        if self._source is None:
            self._source = AudioSource()
            self._track = await room.local_participant.publish_audio(self._source, name="microphone")
        await self._source.play(path)
        self._show("played", f"* played {path}", file=path)

    async def _mute(self, room: Room, rest: str) -> None:
        if self._track is not None:
            self._track.mute()

    async def _unmute(self, room: Room, rest: str) -> None:
        if self._track is not None:
            self._track.unmute()

    async def _who(self, room: Room, rest: str) -> None:
        people = [room.local_participant.identity, *room.remote_participants]
        self._show("who", f"* here: {printable(', '.join(people))}", identities=people)


def _reason(reason: int) -> str:
    from ..rooms import DisconnectReason

    known = [each.name.lower().replace("_", " ") for each in DisconnectReason if each == reason]
    return known[0] if known else str(reason)


async def lines_of(descriptor: int) -> AsyncGenerator[str]:
    """Lines of a terminal, a pipe or a file, without a thread that nobody could end."""
    import anyio
    import anyio.lowlevel

    waiting = b""
    while True:
        try:
            await anyio.wait_readable(descriptor)
        except PermissionError:
            await anyio.lowlevel.checkpoint()  # a file is always readable, and cannot be waited for
        data = os.read(descriptor, READ_BYTES)
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        if not data:
            if waiting:
                yield waiting.decode(errors="replace")
            return
