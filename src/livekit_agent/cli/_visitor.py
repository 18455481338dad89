"""The visitor of ``livekit-agent dev --room``: somebody for the agent to serve, who tells what becomes of it.

The same visitor walks into the embedded server's rooms and, with a LIVEKIT_URL, into real ones: it publishes a
microphone, says, plays and asks what it was told to, and writes down what it reads, hears and sees.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import click

if TYPE_CHECKING:
    from ..config import Config
    from ..dispatch import DispatchServer
    from ..events import RoomEvent
    from ..rooms import AudioSource, RemoteTrack, Room
    from ..runtime._worker import UniversalWorker

__all__ = ["VISITOR", "Visitor", "embedded_door", "real_door"]

VISITOR = "visitor"
_PATIENCE_S = 15.0
_LISTEN_S = 0.5
_AGAIN_S = 0.5
_LEAVE_S = 3.0

Door = Callable[[str], AbstractAsyncContextManager["Room"]]
"""How to get into a room in which the agent is, or will be: by the room's name."""


def embedded_door(server: DispatchServer, agent_name: str) -> Door:
    """Into the embedded server's rooms."""

    @asynccontextmanager
    async def enter(name: str) -> AsyncGenerator[Room]:
        if agent_name:
            server.create_dispatch(name, agent_name)
        async with server.rooms.join(name, VISITOR, name="Visitor") as room:
            yield room

    return enter


def real_door(config: Config, agent_name: str, *, allow_plaintext: bool) -> Door:
    """Into a server's rooms by its own interfaces: a dispatch for a named agent, a token, the native library."""

    @asynccontextmanager
    async def enter(name: str) -> AsyncGenerator[Room]:
        from ..api import LiveKitAPI
        from ..protocol import mint_token
        from ..rooms import NativeRooms

        key, secret = config.api_key, config.api_secret
        if agent_name:
            async with LiveKitAPI(
                config.url,
                key,
                secret,
                ca_file=config.ca_file,
                proxy=config.proxy,
                allow_plaintext=allow_plaintext,
            ) as api:
                await api.dispatch.create(name, agent_name)
        grants = {"roomJoin": True, "room": name}
        token = mint_token(key, secret, wall=time.time(), video=grants, identity=VISITOR, name="Visitor")
        room = await NativeRooms().connect(config.url, token)
        try:
            yield room
        finally:
            # Shielded, so that nobody is left behind in the room; bounded, because the server may be gone.
            with anyio.move_on_after(_LEAVE_S, shield=True):
                await room.disconnect()

    return enter


class Visitor:
    """What it does, once the worker is registered."""

    def __init__(
        self,
        enter: Door,
        room: str,
        *,
        say: str | None = None,
        chat: str | None = None,
        call: str | None = None,
        play: str | None = None,
    ) -> None:
        self._enter = enter
        self._room = room
        self._say = say
        self._chat = chat
        self._call = call
        self._play = play

    async def visit(self, worker: UniversalWorker) -> None:
        """Walk in and stay until the room ends or this is cancelled."""
        from ..events import Registered

        async for _ in worker.events(Registered):
            break
        async with self._enter(self._room) as room, anyio.create_task_group() as group:
            # From before anything is said, so that no answer is missed.
            news = room.subscribe(replay=True)
            click.echo(f"{VISITOR}: in room {self._room!r}")
            published = await room.local_participant.publish_audio(name="microphone")
            group.start_soon(self._speak, room, published.track.source)
            async for event in news:
                self._report(event, group)
            group.cancel_scope.cancel()

    async def _speak(self, room: Room, microphone: AudioSource) -> None:
        """Say it when the agent is there."""
        from ..events import ParticipantJoined

        if all(wish is None for wish in (self._say, self._chat, self._call, self._play)):
            return
        agent = ""
        with anyio.move_on_after(_PATIENCE_S), room.subscribe(ParticipantJoined, replay=True) as arrivals:
            arrival = await anext(arrivals)
            assert isinstance(arrival, ParticipantJoined)
            agent = arrival.participant.identity
        if self._say is not None:
            click.echo(f"{VISITOR}: {self._say}")
            await room.local_participant.publish_data(self._say)
        if self._chat is not None:
            await self._chat_until_answered(room, self._chat)
        if self._call is not None:
            await self._ask(room, agent, self._call)
        if self._play is not None:
            click.echo(f"{VISITOR}: plays {self._play}")
            await microphone.play(_sound(self._play))

    async def _chat_until_answered(self, room: Room, text: str) -> None:
        """Nobody keeps messages for late-comers, and the agent is in the room a moment before it listens."""
        from ..events import ChatReceived

        click.echo(f"{VISITOR}: {text}")
        with anyio.move_on_after(_PATIENCE_S), room.subscribe(ChatReceived) as answers:
            answered = False
            while not answered:
                await room.local_participant.send_chat(text)
                with anyio.move_on_after(_AGAIN_S):
                    await anext(answers)
                    answered = True

    async def _ask(self, room: Room, agent: str, call: str) -> None:
        """Call a method of the agent's; again, as long as it does not serve it yet."""
        from .._errors import RpcError
        from ..rooms import RpcCode

        method, _, payload = call.partition(" ")
        click.echo(f"{VISITOR}: calls {method} {payload}".rstrip())
        patience = anyio.current_time() + _PATIENCE_S
        while True:
            try:
                _tell(agent, await room.local_participant.perform_rpc(agent, method, payload))
                return
            except RpcError as error:
                if error.rpc_code != RpcCode.UNSUPPORTED_METHOD or anyio.current_time() > patience:
                    _tell(agent, f"{error} ({error.rpc_code})")
                    return
            await anyio.sleep(_AGAIN_S)

    def _report(self, event: RoomEvent, group: Any) -> None:
        from ..events import ChatReceived, DataReceived, TrackSubscribed, TranscriptionReceived
        from ..rooms import TrackKind

        match event:
            case DataReceived(data=data, participant=participant):
                _tell(participant.identity if participant else "server", data.decode(errors="replace"))
            case ChatReceived(message=message, identity=identity):
                _tell(identity, message.text)
            case TranscriptionReceived(segments=segments, identity=identity):
                for segment in segments:
                    click.echo(f"{VISITOR}: reads that {identity} said: {_line(segment.text)}")
            case TrackSubscribed(track=track, participant=participant):
                judge = self._listen if track.kind is TrackKind.AUDIO else self._look
                group.start_soon(judge, track, participant.identity)
            case _:
                pass

    async def _listen(self, track: RemoteTrack, identity: str) -> None:
        """Tell what is heard, as a person would, at the first sound and whenever another follows silence."""
        from ..rooms._pcm import pitch_and_level

        pieces: list[bytes] = []
        told = False
        with track.audio_frames(num_channels=1) as frames:
            async for frame in frames:
                loud = int(frame.samples.max()) > _SILENCE
                told = told and loud
                if told or not loud:
                    pieces.clear()
                    continue
                pieces.append(frame.samples.tobytes())
                if len(pieces) * frame.duration >= _LISTEN_S:
                    hz, decibels = pitch_and_level(b"".join(pieces), frame.sample_rate)
                    click.echo(f"{VISITOR}: hears {identity}: about {hz:.0f} Hz at {decibels:.0f} dB")
                    told = True

    async def _look(self, track: RemoteTrack, identity: str) -> None:
        with track.video_frames() as frames:
            async for frame in frames:
                click.echo(f"{VISITOR}: sees {identity}: a picture of {frame.width}x{frame.height}")
                return


_SILENCE = 300
"""Of 32,767: -41 dB."""


def _tell(identity: str, text: str) -> None:
    click.echo(f"{identity}: {_line(text)}")


def _line(text: str) -> str:
    """What somebody else wrote, without what would move the terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def _sound(play: str) -> Any:
    """A WAV file's path, or two seconds of a tone of so many Hz."""
    from ..rooms._pcm import sine

    return sine(int(play), 2) if play.isdigit() else play
