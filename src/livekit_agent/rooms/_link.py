"""A room's connection as its participants and tracks see it: ask, own handles, know whether it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from .._bounds import ROOM_REQUEST_TIMEOUT
from .._errors import RoomClosedError, RoomError, RoomPermissionError
from ._calls import Call, failure
from ._proto import ffi
from ._transport import Sink, Transport
from ._watch import Watches

if TYPE_CHECKING:
    from ._model import LocalState
    from ._participants import RemoteParticipant
    from ._rpc_interceptors import RpcInterceptor

__all__ = ["Link"]


class Link:
    """One room handle on one transport, and every handle that came with it.

    Invariant: a handle is in ``_handles`` from the moment it is received until it is dropped; when the room is over
    all of them are dropped, at once, in the event loop (nothing relies on ``__del__``).
    """

    def __init__(self, transport: Transport, room_handle: int, local_handle: int) -> None:
        self.transport = transport
        self.room_handle = room_handle
        self.local_handle = local_handle
        self.reason: int | None = None
        """The disconnect reason, once the room is over."""
        self.leaving = False
        """Whether the end is known to be near: what fails now, fails because of it."""
        self.watches = Watches()
        """Who waits for something to become true in this room."""
        self.people: Mapping[str, RemoteParticipant] = MappingProxyType({})
        """Who is there, by identity (the model's)."""
        self.me: LocalState | None = None
        """What is known of ourselves (the model's)."""
        self.reconnecting = False
        """Whether the connection is being rebuilt: who leaves now may only seem to."""
        self.interceptors: list[RpcInterceptor] = []
        """What wraps every remote call, the outermost first."""
        self.decrypts = False
        """Whether encrypted media are decrypted."""
        self._handles: dict[int, None] = {}
        self._attached: dict[object, Callable[[], None]] = {}
        self.own(room_handle)
        self.own(local_handle)

    @property
    def over(self) -> bool:
        """Whether the room has ended for us."""
        return self.reason is not None

    @property
    def handle_count(self) -> int:
        """How many native handles this room holds."""
        return len(self._handles)

    def demand(self, permission: str, what: str, grant: str) -> None:
        """Raise :class:`RoomPermissionError` when we lack it: the library and the server would just be silent."""
        if self.me is not None and not self.over and not getattr(self.me.permissions, permission):
            raise RoomPermissionError(f"the agent may not {what}", hint=f"grant {grant}")

    def own(self, handle_id: int) -> int:
        """Take a handle over."""
        if handle_id:
            self._handles[handle_id] = None
        return handle_id

    def drop(self, handle_id: int) -> None:
        """Give one handle back; harmless if that was done."""
        if handle_id in self._handles:
            del self._handles[handle_id]
            self.transport.drop(handle_id)

    def consumed(self, handle_id: int) -> None:
        """A request has consumed a handle: it is no longer there to be dropped."""
        self._handles.pop(handle_id, None)

    def attach(self, user: object, detach: Callable[[], None]) -> None:
        """Something that outlives rooms uses this one: ``detach`` it at the room's end."""
        self._attached[user] = detach

    def detach(self, user: object) -> None:
        """It no longer does."""
        self._attached.pop(user, None)

    def close(self, reason: int) -> None:
        """The room is over: fail what is pending, give every handle back.  Once."""
        self.reason = reason
        self.transport.router.close_room(self.room_handle)
        for detach in list(self._attached.values()):
            detach()
        for handle_id in reversed(self._handles):
            # Newest first: tracks and publications before the participants and the room they belong to.
            self.transport.drop(handle_id)
        self._handles.clear()
        self.watches.close(lambda: RoomClosedError(reason=reason))

    def check_open(self) -> None:
        """Raise :class:`RoomClosedError` when the room is over."""
        if self.reason is not None:
            raise RoomClosedError(reason=self.reason)

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        """A synchronous request about this room."""
        self.check_open()
        return self.transport.request(request)

    def send(self, request: ffi.FfiRequest, *, reclaim: Sink | None = None, on_answer: Sink | None = None) -> Call:
        """An asynchronous request about this room; it fails when the room ends."""
        self.check_open()
        return Call(self.transport, request, room_handle=self.room_handle, reclaim=reclaim, on_answer=on_answer)

    async def answer(self, call: Call, what: str, timeout: float = ROOM_REQUEST_TIMEOUT) -> ffi.FfiEvent:
        """Wait for a call's callback, whatever it says."""
        try:
            return await call.wait(timeout)
        except TimeoutError as exc:
            raise RoomError(f"{what}: {exc}", code="ROOM_TIMEOUT") from None
        except RoomClosedError:
            raise RoomClosedError(f"{what}: the room ended first", reason=self.reason or 0) from None

    async def finish(self, call: Call, what: str, timeout: float = ROOM_REQUEST_TIMEOUT) -> ffi.FfiEvent:
        """Wait for a call's callback and raise its error as ours."""
        event = await self.answer(call, what, timeout)
        kind = event.WhichOneof("message")
        error: str = getattr(getattr(event, kind), "error", "") if kind else ""
        if error:
            raise failure(error, what)
        return event
