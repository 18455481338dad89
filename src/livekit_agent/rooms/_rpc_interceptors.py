"""Interceptors: what wraps every remote call of a room, in either direction.

To measure, to log, to add something to each payload, to refuse, to answer from memory.  The one that was added first is
outermost.  What a call or a handler raises passes through all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._rpc import RpcCall, RpcHandler

__all__ = ["OutgoingCall", "RpcInterceptor", "intercepted_call", "intercepted_handler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCall:
    """We call somebody.  Pass a changed copy on (``dataclasses.replace``) to change the call."""

    identity: str
    method: str
    payload: str = field(repr=False)
    timeout: float
    """Seconds, for the call and everything inside this interceptor."""
    max_round_trip_latency: float | None = None
    """See :meth:`LocalParticipant.perform_rpc`."""


class RpcInterceptor:
    """Wraps calls: override what you need, and ``return await proceed(call)``, or not.

    Added by ``room.intercept_rpc``.  Runs in the caller's task, or in the task of the incoming call, whose time-out
    covers it: when that passes, it is cancelled with the handler.
    """

    async def outgoing(self, call: OutgoingCall, proceed: Callable[[OutgoingCall], Awaitable[str]]) -> str:
        """Around a call of ours; returns the answer."""
        return await proceed(call)

    async def incoming(self, call: RpcCall, proceed: Callable[[RpcCall], Awaitable[str]]) -> str:
        """Around the handler of a call to us; returns what is answered."""
        return await proceed(call)


async def intercepted_call(
    interceptors: list[RpcInterceptor], call: OutgoingCall, perform: Callable[[OutgoingCall], Awaitable[str]]
) -> str:
    """Make a call through all of them; who comes or goes meanwhile does not matter to it."""
    proceed = perform
    for interceptor in reversed(interceptors):
        proceed = _around_call(interceptor, proceed)
    return await proceed(call)


def _around_call(
    interceptor: RpcInterceptor, proceed: Callable[[OutgoingCall], Awaitable[str]]
) -> Callable[[OutgoingCall], Awaitable[str]]:
    return lambda call: interceptor.outgoing(call, proceed)


def intercepted_handler(interceptors: list[RpcInterceptor], handler: RpcHandler) -> RpcHandler:
    """A handler inside all of them."""
    if not interceptors:
        return handler

    async def innermost(call: RpcCall) -> str:
        result = handler(call)
        return await result if inspect.isawaitable(result) else result

    proceed: Callable[[RpcCall], Awaitable[str]] = innermost
    for interceptor in reversed(interceptors):
        proceed = _around_handler(interceptor, proceed)
    return proceed


def _around_handler(
    interceptor: RpcInterceptor, proceed: Callable[[RpcCall], Awaitable[str]]
) -> Callable[[RpcCall], Awaitable[str]]:
    return lambda call: interceptor.incoming(call, proceed)
