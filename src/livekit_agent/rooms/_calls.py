"""One asynchronous request of the library: sent at once, awaited with a deadline, reclaimed when given up.

Sending is separate from waiting because the bytes lent to a request must stay in place while it is sent, and no longer.

Cancellation: a call may be given up at any checkpoint.  Whether its callback has not come yet, or has come but the
waiter was cancelled before it could look, what the callback owns is reclaimed: exactly once, never by nobody.
"""

from __future__ import annotations

import anyio

from .._errors import RoomClosedError, RoomError, RoomPermissionError, printable
from ._proto import ffi
from ._transport import Sink, Transport, release

__all__ = ["Call", "failure"]


class Call:
    """A request in flight.  Build it, then ``await wait(...)``: exactly once."""

    def __init__(
        self,
        transport: Transport,
        request: ffi.FfiRequest,
        *,
        room_handle: int = 0,
        reclaim: Sink | None = None,
        on_answer: Sink | None = None,
    ) -> None:
        """Send.  ``on_answer`` sees the callback the moment it arrives, in the order of events, before the waiter."""
        self._transport = transport
        self._answered = anyio.Event()
        self._answer: ffi.FfiEvent | RoomError | None = None
        self._reclaim = reclaim
        self._on_answer = on_answer
        router = transport.router
        self._id = router.expect(self._receive, reclaim=reclaim, room_handle=room_handle)
        kind = request.WhichOneof("message")
        assert kind is not None, "an empty request"
        self._kind = kind
        getattr(request, kind).request_async_id = self._id
        try:
            transport.request(request)
        except BaseException:
            router.cancel(self._id)
            raise

    def _receive(self, event: ffi.FfiEvent | RoomError | None) -> None:
        self._answer = event
        if isinstance(event, ffi.FfiEvent) and self._on_answer is not None:
            self._on_answer(event)
        self._answered.set()

    async def wait(self, timeout: float) -> ffi.FfiEvent:
        """The callback.

        Raises :class:`TimeoutError` after ``timeout`` seconds, :class:`RoomClosedError` when the room ends first and
        :class:`RoomError` when a server far away rejects the request.
        Cancel-safe: see the module.
        """
        try:
            with anyio.move_on_after(timeout):
                await self._answered.wait()
        except BaseException:
            self._give_up()
            raise
        if not self._answered.is_set():
            self._give_up()
            raise TimeoutError(f"the room library did not answer {self._kind} within {timeout:g} s")
        return self.result()

    @property
    def answered(self) -> bool:
        """Whether :meth:`result` may be asked for."""
        return self._answered.is_set()

    def result(self) -> ffi.FfiEvent:
        """The callback, which has come; raises as :meth:`wait`, and takes its place."""
        if self._answer is None:
            raise RoomClosedError(f"the room ended before {self._kind} was answered")
        if isinstance(self._answer, RoomError):
            raise self._answer
        return self._answer

    def _give_up(self) -> None:
        answer, self._answer = self._answer, None
        if not self._answered.is_set():
            self._transport.router.forget(self._id)
        elif isinstance(answer, ffi.FfiEvent):
            if self._reclaim is None:
                release(self._transport, answer)
            else:
                self._reclaim(answer)


def failure(text: str, what: str) -> RoomError:
    """The library's error text as an error of ours: redacted, one line, typed where the text tells."""
    message = f"{what}: {printable(text)}"
    if "NotAllowed" in text:
        return RoomPermissionError(message, hint="the agent's token does not grant this")
    if "LimitExceeded" in text:
        return RoomError(message, code="ROOM_LIMIT_EXCEEDED", hint="the server limits the size of this value")
    if "maximum message size" in text:
        return RoomError(message, code="ROOM_DATA_TOO_LARGE", hint="send it in smaller packets")
    if "request timeout" in text:
        return RoomError(message, code="ROOM_TIMEOUT")
    return RoomError(message)
