"""Accepting connections so that each of them is closed by somebody.

A connection belongs to its task from the task's first step on.  AnyIO lets a task take that step even if it is
cancelled before.  But asyncio itself does not, and it is asyncio that cancels what is left when a program is torn down
without leaving its blocks.  Such a connection would stay open until the garbage collector finds it.

Without descriptors nobody can be accepted for a while; that is no reason to end all who are connected.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import Listener, SocketListener, SocketStream
from anyio.streams.stapled import MultiListener

from .._bounds import ACCEPT_PAUSE, CLOSE_TIMEOUT

__all__ = ["serve_each"]

_log = logging.getLogger("livekit_agent.dispatch")

#: The system has no more of what a connection needs.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: One connection has gone before it was accepted (accept(2): "treat them like EAGAIN").
_GONE = (errno.ECONNABORTED, errno.ECONNRESET, errno.EPERM, errno.EPROTO)


async def serve_each(listener: MultiListener[SocketStream], serve: Callable[[SocketStream], Awaitable[object]]) -> None:
    """Accept until cancelled; ``serve`` closes what it is given, each in a task of its own."""
    async with anyio.create_task_group() as tasks:
        for one in listener.listeners:
            tasks.start_soon(_serve_one, one, serve)


async def _serve_one(listener: Listener[SocketStream], serve: Callable[[SocketStream], Awaitable[object]]) -> None:
    fresh: dict[SocketStream, None] = {}
    """Accepted, and their tasks have not begun."""

    async def begin(stream: SocketStream) -> None:
        if stream in fresh:
            del fresh[stream]
            await serve(stream)

    assert isinstance(listener, SocketListener)
    async with anyio.create_task_group() as tasks:
        try:
            while True:
                stream = await _accept(listener)
                fresh[stream] = None
                tasks.start_soon(begin, stream)
        finally:
            # Closing by force waits for nothing; the shield is for the second of them.
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                while fresh:
                    stream, _ = fresh.popitem()
                    await anyio.aclose_forcefully(stream)


async def _accept(listener: SocketListener) -> SocketStream:
    told = False
    while True:
        try:
            return await listener.accept()
        except (OSError, anyio.BrokenResourceError) as exc:
            # On trio AnyIO says it in words of its own.
            cause = exc if isinstance(exc, OSError) else exc.__cause__
            number = cause.errno if isinstance(cause, OSError) else None
            if number not in _EXHAUSTED + _GONE:
                raise
        if number in _EXHAUSTED:
            if not told:
                told = True
                _log.warning("no connection can be accepted now: %s", os.strerror(number or 0))
            await anyio.sleep(ACCEPT_PAUSE)
