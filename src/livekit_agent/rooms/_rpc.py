"""Remote calls, both ways: ask another participant and wait for its answer; answer what others ask.

Calling: one request of the library's, with a deadline of ours.  Every failure is an :class:`~livekit_agent.RpcError`
whose ``rpc_code`` is the wire's number, whoever noticed it: the other side, the library or our own clock.

Answering: ``async with room.serve_rpc({...}) as calls`` is the place where the handlers' tasks live.  The library's
invocations go into the room's :class:`RpcDesk`, from there by method to the block that serves it, and each becomes a
task in that block's group.  Invariant: every invocation that reached us is answered exactly once, synchronously, in
the moment its fate is decided: by the handler's result, its error, its time-out, its cancellation (leaving the block),
or at once when nobody serves the method or too many run.  So a cancelled handler leaves no caller waiting.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio

from .._bounds import RPC_INVOCATIONS_MAX, RPC_RESPONSE_TIMEOUT, RPC_TIMEOUT_MAX
from .._errors import RoomClosedError, RoomError, RpcError, log_error
from ._enums import RpcCode
from ._link import Link
from ._proto import ffi
from ._proto import rpc as rpc_pb
from ._rpc_interceptors import OutgoingCall, RpcInterceptor, intercepted_call, intercepted_handler
from ._sending import Sending

__all__ = ["RpcCall", "RpcCalling", "RpcDesk", "RpcHandler", "RpcRegistration", "RpcServer", "serve_rpc"]

_log = logging.getLogger("livekit_agent.rooms")


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcCall:
    """Somebody calls us."""

    method: str
    payload: str = field(repr=False)
    caller_identity: str
    request_id: str
    """The caller's id of the call."""
    timeout: float
    """Seconds after which the caller no longer waits; the handler is cancelled then."""


#: Answers a call: sync or async.  Raising :class:`RpcError` answers with that error, anything else with 1500.
RpcHandler = Callable[[RpcCall], Awaitable[str] | str]


class RpcCalling(Sending):
    """The local participant's part of it: calling."""

    async def perform_rpc(
        self,
        identity: str,
        method: str,
        payload: str = "",
        *,
        timeout: float = RPC_RESPONSE_TIMEOUT,
        max_round_trip_latency: float | None = None,
    ) -> str:
        """Call a method of another participant and return its answer.

        ``max_round_trip_latency`` is how many seconds of ``timeout`` are for the way there and back: the other side's
        handler gets the rest, at least 1 s, and an identity that is not in the room is noticed after it (the library
        waits so long for an acknowledgement).  None: the library's 7 s.  Less finds the absent sooner; more is for
        links on which calls queue behind other data.

        Raises :class:`RpcError`: its ``rpc_code`` is a :class:`RpcCode` or the other side's own number.
        Cancelling gives the call up; the other side may run it nevertheless.
        """
        call = OutgoingCall(
            identity=identity,
            method=method,
            payload=payload,
            timeout=timeout,
            max_round_trip_latency=max_round_trip_latency,
        )
        return await intercepted_call(list(self._link.interceptors), call, self._perform)

    async def _perform(self, outgoing: OutgoingCall) -> str:
        identity, method, timeout = outgoing.identity, outgoing.method, outgoing.timeout
        latency = outgoing.max_round_trip_latency
        if not (0 < timeout <= RPC_TIMEOUT_MAX and (latency is None or 0 < latency <= RPC_TIMEOUT_MAX)):
            raise ValueError("the timeout of a call, and its latency, are more than 0 and at most 49 days")
        await self._check_may_send("call other participants")
        if identity == self._state.identity:
            # The library would wait 7 s for an acknowledgement that cannot come.
            raise RpcError("a participant cannot call itself", rpc_code=RpcCode.CONNECTION_TIMEOUT)
        link = self._link
        request = rpc_pb.PerformRpcRequest(
            local_participant_handle=link.local_handle,
            destination_identity=identity,
            method=method,
            payload=outgoing.payload,
            response_timeout_ms=max(1, round(timeout * 1000)),
            max_round_trip_latency_ms=None if latency is None else max(1, round(latency * 1000)),
        )
        call = link.send(ffi.FfiRequest(perform_rpc=request))
        try:
            event = await link.answer(call, f"call of {method!r} not answered", timeout)
        except RoomError as exc:
            if exc.code != "ROOM_TIMEOUT":
                raise
            raise RpcError("Response timeout", rpc_code=RpcCode.RESPONSE_TIMEOUT) from None
        answer = event.perform_rpc
        if answer.HasField("error") and link.leaving:
            # The library fails what is under way just before it tells the room's end.
            raise RoomClosedError(f"call of {method!r} not answered: the room ended first", reason=link.reason or 0)
        if answer.HasField("error"):
            raise RpcError(answer.error.message, rpc_code=answer.error.code, data=answer.error.data)
        return answer.payload


class RpcDesk:
    """Where a room's incoming calls arrive: one per room, routed by method."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._methods: dict[str, Callable[[rpc_pb.RpcMethodInvocationEvent], None]] = {}

    @property
    def interceptors(self) -> list[RpcInterceptor]:
        """What wraps every call, as it is now."""
        return list(self._link.interceptors)

    def register(self, method: str, accept: Callable[[rpc_pb.RpcMethodInvocationEvent], None]) -> None:
        """From now on calls of ``method`` go to ``accept``."""
        if method in self._methods:
            raise ValueError(f"the RPC method {method!r} is already served in this room")
        self._link.check_open()
        self._link.demand("can_publish_data", "answer calls", "canPublishData")
        if not self._methods:
            self._link.transport.router.route_handle(self._link.local_handle, self._receive)
            self._link.attach(self, self._close)
        self._methods[method] = accept
        request = rpc_pb.RegisterRpcMethodRequest(local_participant_handle=self._link.local_handle, method=method)
        try:
            self._link.request(ffi.FfiRequest(register_rpc_method=request))
        except BaseException:
            self.unregister(method)
            raise

    def unregister(self, method: str) -> None:
        """Calls of ``method`` are refused again (1400)."""
        if self._methods.pop(method, None) is None or self._link.over:
            return
        request = rpc_pb.UnregisterRpcMethodRequest(local_participant_handle=self._link.local_handle, method=method)
        with suppress(RoomError):
            # Rejected: the library has forgotten the room, and every method with it.
            self._link.request(ffi.FfiRequest(unregister_rpc_method=request))
        if not self._methods:
            self._link.transport.router.unroute_handle(self._link.local_handle)
            self._link.detach(self)

    def answer(self, invocation_id: int, payload: str | None, error: RpcError | None = None) -> None:
        """Answer an invocation.  Harmless when the caller no longer waits or the room is over.

        Raises :class:`TypeError` or :class:`ValueError` for what does not fit the message: half a character, a number
        of more than 32 bits.
        """
        if self._link.over:
            return
        request = rpc_pb.RpcMethodInvocationResponseRequest(
            local_participant_handle=self._link.local_handle, invocation_id=invocation_id
        )
        if error is not None:
            request.error.code = error.rpc_code
            request.error.message = error.message
            if error.data:
                request.error.data = error.data
        else:
            request.payload = payload or ""
        with suppress(RoomError):
            # Rejected: the library has forgotten the room, and the caller with it.
            self._link.request(ffi.FfiRequest(rpc_method_invocation_response=request))

    def _receive(self, event: ffi.FfiEvent) -> None:
        invocation = event.rpc_method_invocation
        accept = self._methods.get(invocation.method)
        if accept is None:
            # It was on its way when the method was taken back.
            self.answer(invocation.invocation_id, None, unsupported())
        else:
            accept(invocation)

    def _close(self) -> None:
        self._methods.clear()
        self._link.transport.router.unroute_handle(self._link.local_handle)


class RpcRegistration:
    """A method that is served.  ``close()`` takes it back; calls that run go on."""

    def __init__(self, server: RpcServer, method: str) -> None:
        self._server = server
        self.method = method
        """Its name."""

    def close(self) -> None:
        """Serve it no longer.  Idempotent."""
        self._server.withdraw(self)

    def __enter__(self) -> RpcRegistration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RpcServer:
    """The methods that one ``serve_rpc`` block serves."""

    def __init__(self, desk: RpcDesk, concurrency: int) -> None:
        self._desk = desk
        self._concurrency = concurrency
        self._registrations: dict[str, tuple[RpcRegistration, RpcHandler]] = {}
        self._waiting: deque[tuple[rpc_pb.RpcMethodInvocationEvent, RpcHandler]] = deque()
        self._running = 0
        self._wake = anyio.Event()
        self._open = True

    def __repr__(self) -> str:
        methods = ", ".join(self._registrations)
        return f"<RpcServer of {methods or 'nothing'}: {self.calls_in_flight} calls in flight>"

    @property
    def calls_in_flight(self) -> int:
        """Calls that are being answered."""
        return self._running + len(self._waiting)

    def register(self, method: str, handler: RpcHandler) -> RpcRegistration:
        """Serve one more method.  Each may be served once per room."""
        if not self._open:
            raise RoomError("this serve_rpc block has ended", hint="register inside the `async with` block")

        def accept(invocation: rpc_pb.RpcMethodInvocationEvent) -> None:
            self._accept(invocation, handler)

        self._desk.register(method, accept)
        registration = RpcRegistration(self, method)
        self._registrations[method] = (registration, handler)
        return registration

    def method(self, name: str) -> Callable[[RpcHandler], RpcHandler]:
        """Decorator: serve the function under ``name``."""

        def decorate(handler: RpcHandler) -> RpcHandler:
            self.register(name, handler)
            return handler

        return decorate

    def withdraw(self, registration: RpcRegistration) -> None:
        """Serve a method no longer (``registration.close()``)."""
        found = self._registrations.get(registration.method)
        if found is not None and found[0] is registration:
            del self._registrations[registration.method]
            self._desk.unregister(registration.method)

    # --- calls: synchronous, in the loop ------------------------------------------------------------------------

    def _accept(self, invocation: rpc_pb.RpcMethodInvocationEvent, handler: RpcHandler) -> None:
        if self.calls_in_flight >= self._concurrency:
            busy = RpcError("too many calls at once", rpc_code=RpcCode.APPLICATION_ERROR)
            self._desk.answer(invocation.invocation_id, None, busy)
            return
        self._waiting.append((invocation, handler))
        self._wake.set()

    def close(self) -> None:
        """Serve nothing any more; what nobody has begun to answer is refused."""
        self._open = False
        for registration, _ in list(self._registrations.values()):
            registration.close()
        while self._waiting:
            invocation, _ = self._waiting.popleft()
            self._desk.answer(invocation.invocation_id, None, gone())

    # --- the block's tasks ----------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Give each call a task of its own, for as long as the block lasts."""
        async with anyio.create_task_group() as group:
            while True:
                while self._waiting:
                    invocation, handler = self._waiting.popleft()
                    self._running += 1
                    group.start_soon(self._handle, invocation, handler, name=f"rpc {invocation.method}")
                # No checkpoint between the look and the wait: a call cannot slip in between.
                self._wake = anyio.Event()
                await self._wake.wait()

    async def _handle(self, invocation: rpc_pb.RpcMethodInvocationEvent, handler: RpcHandler) -> None:
        payload: str | None = None
        # What the caller is told if we do not get as far as an answer: we were cancelled.
        error: RpcError | None = gone()
        call = RpcCall(
            method=invocation.method,
            payload=invocation.payload,
            caller_identity=invocation.caller_identity,
            request_id=invocation.request_id,
            timeout=invocation.response_timeout_ms / 1000,
        )
        try:
            # The first instant after the time-out: who has finished at it has finished, on both backends.
            deadline = math.nextafter(anyio.current_time() + call.timeout, math.inf)
            with anyio.CancelScope(deadline=deadline) as scope:
                wrapped = intercepted_handler(self._desk.interceptors, handler)
                payload, error = await _answer_of(wrapped, call)
            if scope.cancelled_caught:
                error = RpcError("Response timeout", rpc_code=RpcCode.RESPONSE_TIMEOUT)
        finally:
            self._running -= 1
            try:
                self._desk.answer(invocation.invocation_id, payload, error)
            except (TypeError, ValueError) as exc:
                # The handler's bug as well; raised from here, it would end the block, and leave the caller waiting.
                log_error(_log, exc, "the answer of the RPC method %r cannot be sent", invocation.method)
                self._desk.answer(invocation.invocation_id, None, failed())


async def _answer_of(handler: RpcHandler, call: RpcCall) -> tuple[str | None, RpcError | None]:
    """The handler's result, or its error as the caller may see it."""
    try:
        result = handler(call)
        if inspect.isawaitable(result):
            result = await result
        if not isinstance(result, str):  # pyright: ignore[reportUnnecessaryIsInstance] - user code may
            raise TypeError(f"an RPC handler returns str, not {type(result).__name__}")
    except RpcError as exc:
        return None, exc
    except Exception as exc:
        # The boundary of one call: the handler's own bug is told here in full and to the caller without its details.
        log_error(_log, exc, "the RPC method %r failed", call.method)
        return None, failed()
    except anyio.get_cancelled_exc_class() as exc:
        if anyio.current_effective_deadline() == -math.inf:
            raise
        # A bare Task.cancel() (asyncio): the block's task group would end for it, without a word and all other calls.
        log_error(_log, exc, "the RPC method %r was cancelled by its own program", call.method)
        return None, failed()
    return result, None


def failed() -> RpcError:
    """The handler has a bug, whose details are not the caller's."""
    return RpcError("Application error in method handler", rpc_code=RpcCode.APPLICATION_ERROR)


def unsupported() -> RpcError:
    """Nobody serves the method."""
    return RpcError("Method not supported at destination", rpc_code=RpcCode.UNSUPPORTED_METHOD)


def gone() -> RpcError:
    """Nobody serves it any more."""
    return RpcError("Recipient disconnected", rpc_code=RpcCode.RECIPIENT_DISCONNECTED)


@asynccontextmanager
async def serve_rpc(
    desk: RpcDesk, handlers: Mapping[str, RpcHandler], concurrency: int = RPC_INVOCATIONS_MAX
) -> AsyncGenerator[RpcServer]:
    """The block in which handlers run (``room.serve_rpc``)."""
    server = RpcServer(desk, concurrency)
    try:
        for method, handler in handlers.items():
            server.register(method, handler)
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, name="rpc calls")
            try:
                yield server
            finally:
                # First no more calls, then no more tasks: each that is cancelled answers its caller.
                server.close()
                group.cancel_scope.cancel()
    finally:
        server.close()
