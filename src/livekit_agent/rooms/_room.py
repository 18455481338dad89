"""A room that we are in.

Life: :func:`join` sends the connect request and waits, with a deadline of its own; the callback's contents become a
:class:`Room` synchronously; only then is the library told that we are ready, so no event comes before somebody could
subscribe.  From then on every event changes the model and is handed to the subscriptions, all in one synchronous step
of the event loop: a room needs no task.  The room is over at the library's ``eos`` and at nothing else; then pending
calls fail, every native handle is given back and ``Disconnected`` goes out, once, last.

Cancellation: ``join`` may be cancelled at any checkpoint; a join that succeeds afterwards is undone when its callback
comes (``_transport.release``).  ``disconnect`` completes even when cancelled, within its bound.
"""

from __future__ import annotations

import logging
import math
import re
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, TypeVar, overload

import anyio
import anyio.lowlevel

from .. import events
from .._bounds import ROOM_JOIN_TIMEOUT, ROOM_LEAVE_TIMEOUT, RPC_INVOCATIONS_MAX, STREAM_BUFFER_BYTES_MAX
from .._errors import RoomClosedError, RoomConnectError, RoomError, printable, redact
from .._types import AutoSubscribe
from ._calls import Call
from ._connect_options import DEFAULT_OPTIONS, ConnectOptions
from ._data_receivers import RemoteDataTrack
from ._enums import ConnectionState, DisconnectReason, known
from ._link import Link
from ._participants import LocalParticipant
from ._presence import Presence
from ._proto import ffi
from ._proto import room as room_pb
from ._rpc import RpcHandler, RpcServer, serve_rpc
from ._rpc_interceptors import RpcInterceptor
from ._session import Session
from ._stream_inbox import StreamListener
from ._streams import ByteStreamReader, TextStreamReader
from ._subscription import Subscription
from ._transport import Transport, owned_handles
from ._updates import Model

__all__ = ["Room", "RoomStatistics", "join"]

E = TypeVar("E", bound=events.RoomEvent)

_OfConnection = events.Reconnecting | events.Reconnected | events.Disconnected

#: The status, and neither a port nor a piece of a name.
_REFUSED = re.compile(r"(?<![\w.:-])401(?![\w.-])|\bUnauthorized\b")

NO_HANDLERS: Mapping[str, RpcHandler] = MappingProxyType({})

_log = logging.getLogger("livekit_agent.rooms")


class RoomStatistics(NamedTuple):
    """A look inside, for tests and debugging."""

    #: Subscriptions that are open.
    subscriptions: int
    #: Events that wait in them.
    waiting_events: int
    #: Events that their bounds have dropped.
    dropped_events: int
    #: Native handles held.
    handles: int


class Room(Presence, Session):
    """A room that we are in.  Made by a :class:`~livekit_agent.rooms.RoomConnector`.

    Use it in the event loop that joined it.  ``async with room:`` leaves it at the end of the block.
    """

    def __init__(
        self,
        transport: Transport,
        result: room_pb.ConnectCallback.Result,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
        options: ConnectOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._transport = transport
        self._link = Link(transport, result.room.handle.id, result.local_participant.handle.id)
        self._model = Model(result, self._link, self._emit, auto_subscribe, options)
        # Ordered: delivery order is subscription order.  Weak: a consumer that is abandoned half way is let go.
        self._subscriptions: dict[weakref.ref[Subscription[Any]], None] = {}
        self._closed = anyio.Event()
        self._reason: int | None = None
        self._asked_reason: int | None = None
        self._end: events.Disconnected | None = None
        self._connection_listener: Callable[[_OfConnection], object] | None = None
        self._dropped = 0
        transport.router.route_room(self._link.room_handle, self._receive, self._lost)
        ready = room_pb.ReadyForRoomEventRequest(room_handle=self._link.room_handle)
        try:
            transport.request(ffi.FfiRequest(ready_for_room_event=ready))
        except RoomError:
            self._finish()
            raise RoomConnectError(
                "the room library had given up the room before it could be used",
                hint="was the event loop blocked for 15 s?",
            ) from None
        self._model.tracks.ready()

    # --- what is known ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The room's name."""
        return self._model.name

    @property
    def sid(self) -> str:
        """The server's id, ``RM_…``."""
        return self._model.sid

    @property
    def metadata(self) -> str:
        """Text of the application's."""
        return self._model.metadata

    @property
    def local_participant(self) -> LocalParticipant:
        """Ourselves."""
        return self._model.local

    @property
    def data_tracks(self) -> Mapping[str, RemoteDataTrack]:
        """The data tracks of all others, by sid (live)."""
        return self._model.data_tracks.tracks

    @property
    def num_participants(self) -> int:
        """How many are in the room as the server said last; lags behind :attr:`remote_participants`.

        A server says it every 5 s at most when it has changed, and at the join what it said last: 0 to the first.
        Agents and recorders do not count.
        """
        return self._model.num_participants

    @property
    def connection_state(self) -> ConnectionState:
        """Our connection."""
        return ConnectionState.DISCONNECTED if self._end is not None else self._model.state

    @property
    def is_open(self) -> bool:
        """Whether we are still in the room (perhaps reconnecting)."""
        return self._end is None

    @property
    def disconnect_reason(self) -> DisconnectReason | int | None:
        """Why the room ended for us; None while it has not."""
        return None if self._end is None else self._end.reason

    def statistics(self) -> RoomStatistics:
        """Counts of what this room holds."""
        subscriptions = self._consumers()
        return RoomStatistics(
            subscriptions=len(subscriptions),
            waiting_events=sum(len(subscription) for subscription in subscriptions),
            dropped_events=self._dropped + sum(subscription.dropped for subscription in subscriptions),
            handles=self._link.handle_count,
        )

    def __repr__(self) -> str:
        state = self.connection_state.name
        if self._end is not None:
            state += f" reason={self._end.reason}"
        return f"<Room {self.name!r} {self.sid} {state}, {len(self.remote_participants)} others>"

    # --- events -------------------------------------------------------------------------------------------------

    @overload
    def subscribe(self, *, replay: bool = False) -> Subscription[events.RoomEvent]: ...
    @overload
    def subscribe(self, *types: type[E], replay: bool = False) -> Subscription[E]: ...
    def subscribe(self, *types: type[Any], replay: bool = False) -> Subscription[Any]:
        """Events from now on, of these types or of all.  Synchronous: nothing is missed in between.

        ``replay``: those who are present, their tracks and our subscriptions to them come first.
        """
        subscription: Subscription[Any] = Subscription(types, self._forget, ended=self._end is not None)
        if self._end is None:
            # The collector may run in any thread: taking one entry out is all that it does here.
            self._subscriptions[weakref.ref(subscription, lambda ref: self._subscriptions.pop(ref, None))] = None
            if replay:
                self._replay(subscription)
        return subscription

    @overload
    def events(self) -> Subscription[events.RoomEvent]: ...
    @overload
    def events(self, *types: type[E]) -> Subscription[E]: ...
    def events(self, *types: type[Any]) -> Subscription[Any]:
        """As :meth:`subscribe`."""
        return self.subscribe(*types)

    async def wait_for(self, kind: type[E], where: Callable[[E], bool] | None = None, timeout: float = math.inf) -> E:
        """The next event of that type for which ``where`` is true.

        Raises :class:`TimeoutError` after ``timeout`` seconds and :class:`RoomClosedError` when the room ends before.
        """
        with self.subscribe(kind) as subscription:
            with anyio.fail_after(None if math.isinf(timeout) else timeout):
                async for event in subscription:
                    if isinstance(event, kind) and (where is None or where(event)):
                        return event
        raise RoomClosedError(
            f"the room ended before a {kind.__name__}", reason=0 if self._end is None else self._end.reason
        )

    async def wait_closed(self) -> events.Disconnected:
        """Wait for the end of the room."""
        # A cancelled caller does not get it: on asyncio a wait that is over in the same tick would win.
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._closed.wait()
        assert self._end is not None
        return self._end

    def tell_connection(self, listener: Callable[[_OfConnection], object]) -> None:
        """Call ``listener``, synchronously, when the room reconnects, is back, and at its end; at once if that is now.

        For the job that the room belongs to, which is ended by it: one task less per job than waiting.
        """
        self._connection_listener = listener
        if self._end is not None:
            listener(self._end)
        elif self.connection_state is ConnectionState.RECONNECTING:
            listener(events.Reconnecting())

    def _forget(self, subscription: Subscription[Any]) -> None:
        ref = weakref.ref(subscription)  # equal to the one that is kept
        if ref in self._subscriptions:
            del self._subscriptions[ref]
            self._dropped += subscription.dropped

    def _consumers(self) -> list[Subscription[Any]]:
        return [found for ref in list(self._subscriptions) if (found := ref()) is not None]

    def _replay(self, subscription: Subscription[Any]) -> None:
        for participant in self._model.remote.values():
            subscription.put(events.ParticipantJoined(participant=participant, existing=True))
            for publication in participant.track_publications.values():
                subscription.put(events.TrackPublished(publication=publication, participant=participant, existing=True))
                if publication.track is not None:
                    subscription.put(
                        events.TrackSubscribed(
                            track=publication.track, publication=publication, participant=participant
                        )
                    )
        for track in self._model.data_tracks.tracks.values():
            subscription.put(events.DataTrackPublished(track=track, participant=track.participant, existing=True))

    def _emit(self, event: events.RoomEvent) -> None:
        for subscription in self._consumers():
            subscription.put(event)
        if isinstance(event, (events.Reconnecting, events.Reconnected)) and self._connection_listener is not None:
            self._connection_listener(event)

    # --- the library's side ---------------------------------------------------------------------------------------

    def _receive(self, event: room_pb.RoomEvent) -> None:
        """One event of the library, in the loop."""
        kind = event.WhichOneof("message")
        if kind == "disconnected":
            # Not the end yet: tracks of ours may still be taken back.
            self._reason = event.disconnected.reason
            self._link.leaving = True
        elif kind == "eos":
            self._finish()
        elif kind is not None:
            try:
                handled = self._model.apply(kind, event)
            except Exception:
                # The boundary of one room: raised from here, a bug of ours would take down the event loop, with every
                # other room of the process.  This room's model can no longer be trusted, so the room ends.
                _log.exception("room %s: event %s could not be applied; leaving the room", self.sid, kind)
                self._leave_quietly()
                self._finish()
                return
            if not handled:
                for handle_id in owned_handles(event):
                    self._transport.drop(handle_id)
            self._link.watches.look()

    def _lost(self) -> None:
        """The library has forgotten this room after a panic."""
        _log.error("room %s: the native library has given up the room", self.sid)
        self._finish()

    def _finish(self) -> None:
        """The room is over.  Once; synchronous."""
        if self._end is not None:
            return
        reason = self._reason if self._reason is not None else self._asked_reason
        self._end = events.Disconnected(reason=known(DisconnectReason, reason or 0))
        self._link.close(self._end.reason)
        self._emit(self._end)
        for subscription in self._consumers():
            subscription.end()
        self._closed.set()
        if self._connection_listener is not None:
            self._connection_listener(self._end)

    # --- streams ------------------------------------------------------------------------------------------------

    def text_streams(
        self, topic: str | None = None, *, buffer_bytes: int = STREAM_BUFFER_BYTES_MAX
    ) -> StreamListener[TextStreamReader]:
        """The text streams that others send from now on with this topic; None: with any that nobody else listens to.

        One listener per topic: ValueError for a second one.  A reader that holds more than ``buffer_bytes`` unread
        fails.  Close the listener, or leave its ``with`` block.
        """
        return self._model.streams.texts(topic, buffer_bytes)

    def byte_streams(
        self, topic: str | None = None, *, buffer_bytes: int = STREAM_BUFFER_BYTES_MAX
    ) -> StreamListener[ByteStreamReader]:
        """As :meth:`text_streams`, for byte streams."""
        return self._model.streams.bytes(topic, buffer_bytes)

    # --- answering calls ----------------------------------------------------------------------------------------

    def serve_rpc(
        self, handlers: Mapping[str, RpcHandler] = NO_HANDLERS, *, concurrency: int = RPC_INVOCATIONS_MAX
    ) -> AbstractAsyncContextManager[RpcServer]:
        """Answer other participants' calls for as long as the ``async with`` block lasts.

        Each call runs in a task of the block's.  More methods: ``register`` on what the block gives.  Leaving the block
        takes the methods back and cancels the calls that run, whose callers are told (1503).  More than ``concurrency``
        calls at once are refused (1500).  Without the permission to publish data it raises
        :class:`RoomPermissionError`: the answers would go nowhere.
        """
        return serve_rpc(self._model.rpc, handlers, concurrency)

    @contextmanager
    def intercept_rpc(self, interceptor: RpcInterceptor) -> Generator[RpcInterceptor]:
        """Wrap every remote call, ours and others', for as long as the ``with`` block lasts.

        The one that came first is outermost.  A call that is under way keeps those that it began with.
        """
        chain = self._link.interceptors
        chain.append(interceptor)
        try:
            yield interceptor
        finally:
            # By identity: two that compare equal are two.
            del chain[next(place for place, other in enumerate(chain) if other is interceptor)]

    # --- leaving --------------------------------------------------------------------------------------------------

    async def disconnect(self, reason: int = 0) -> None:
        """Leave the room.

        Idempotent, also concurrently.  Completes under cancellation, in at most ``ROOM_LEAVE_TIMEOUT``: then the room
        is given up, and the server finds out by itself.  ``reason`` is a :class:`DisconnectReason`; else
        :class:`ValueError`, and we are still there.
        """
        asked = DisconnectReason(reason or DisconnectReason.CLIENT_INITIATED)
        if self._end is None and self._asked_reason is None:
            self._asked_reason = asked
            self._leave_quietly(reason)
        # The shield protects the orderly leave: without it the participant would stay in the room on the server.
        with anyio.move_on_after(ROOM_LEAVE_TIMEOUT, shield=True):
            await self._closed.wait()
        self._finish()

    def _leave_quietly(self, reason: int = 0) -> None:
        self._link.leaving = True
        request = room_pb.DisconnectRequest(room_handle=self._link.room_handle)
        if reason:
            request.reason = reason  # pyright: ignore[reportAttributeAccessIssue] - an enum's number
        # Its callback, which comes after eos, is of no interest: nobody expects it.
        request.request_async_id = self._transport.router.expect(lambda _: None, room_handle=self._link.room_handle)
        try:
            self._transport.request(ffi.FfiRequest(disconnect=request))
        except RoomError:
            # The library has forgotten the room already; then nothing more will come.
            self._finish()

    async def __aenter__(self) -> Room:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.disconnect()


async def join(
    transport: Transport,
    url: str,
    token: str,
    *,
    timeout: float = ROOM_JOIN_TIMEOUT,
    auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
    options: ConnectOptions = DEFAULT_OPTIONS,
) -> Room:
    """Join the room that the token names, at the first of the urls that can be reached.

    Raises :class:`RoomConnectError`, whose text never contains the token.  Cancel-safe at every checkpoint: a join
    that succeeds after being given up is undone by itself.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    urls = [url, *options.fallback_urls]
    end = anyio.current_time() + timeout
    while True:
        # What is left is shared by the urls that are left, so that one that never answers leaves some to the others.
        share = max(0.0, end - anyio.current_time()) / len(urls)
        message = options.message(auto_subscribe=auto_subscribe is AutoSubscribe.EVERYTHING, timeout=share)
        request = room_pb.ConnectRequest(url=urls.pop(0), token=token, options=message)
        try:
            return Room(transport, await _attempt(transport, request, share), auto_subscribe, options)
        except RoomConnectError as exc:
            if not urls or exc.code == "ROOM_REFUSED":
                raise
            _log.warning("%s; trying the next url", exc)


async def _attempt(
    transport: Transport, request: room_pb.ConnectRequest, timeout: float
) -> room_pb.ConnectCallback.Result:
    try:
        call = Call(transport, ffi.FfiRequest(connect=request))
        event = await call.wait(timeout)
    except TimeoutError:
        raise RoomConnectError(
            f"the room was not joined within {timeout:g} s",
            hint="is the server reachable, also for media (UDP, or TCP as its configuration says)?",
        ) from None
    if event.connect.error:
        raise _connect_error(event.connect.error)
    return event.connect.result


def _connect_error(text: str) -> RoomConnectError:
    """The library's error text, which may quote the whole token, as an error that does not."""
    text = redact(text)  # before it is looked into: any three digits may be part of a token
    hint = ""
    if _REFUSED.search(text):
        hint = "the server does not accept the token: wrong key or secret, expired, or without roomJoin"
        # Any other server of the same project would refuse it too.
        return RoomConnectError(f"could not join the room: {printable(text)}", hint=hint, code="ROOM_REFUSED")
    elif "wait_pc_connection" in text:
        hint = "signalling works, media does not: check UDP and TCP ports, or the network interface"
    elif "404 Not Found" in text:
        hint = "is that URL a LiveKit server's, and its base path right?"
    elif "refused" in text or "timed out" in text:
        hint = "is a LiveKit server running at that URL?"
    return RoomConnectError(f"could not join the room: {printable(text)}", hint=hint)
