"""Tasks that outlive the body that uses them, also when the whole is cancelled from outside.

With plain nested task groups an outside cancellation reaches all tasks at once: the task that writes to the socket dies
before the jobs have said how they ended.  In a service group the children are shielded and are cancelled when the body
has left, whatever made it leave.  (tricycle's service nursery is the prior art; the idea is Erlang's rest-for-one.)

    async with open_service_group() as services:
        services.start_soon(writer)
        async with create_task_group() as jobs:
            ...                      # cancelled from outside: jobs end first, and the writer still writes

The shield has no deadline of its own: it is bounded by the body, which has one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVarTuple

import anyio
from anyio.abc import TaskGroup

__all__ = ["ServiceGroup", "open_service_group"]

Ts = TypeVarTuple("Ts")


class ServiceGroup:
    """The handle to start services with."""

    def __init__(self, task_group: TaskGroup) -> None:
        self._task_group = task_group
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._serial = 0
        self._leaving = False

    def start_soon(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Start a service.  An exception in it cancels the body, as in any task group."""
        self._task_group.start_soon(self._serve, fn, args)

    async def _serve(self, fn: Callable[[*Ts], Awaitable[object]], args: tuple[*Ts]) -> None:
        self._serial += 1
        serial = self._serial
        # Shielded: a service outlives the body.  Bounded: leaving the body cancels this scope.
        with anyio.CancelScope(shield=True) as scope:
            self._scopes[serial] = scope
            if self._leaving:
                scope.cancel()
            try:
                await fn(*args)
            finally:
                del self._scopes[serial]

    def cancel(self) -> None:
        """Cancel every service; the block's end does this."""
        self._leaving = True
        for scope in self._scopes.values():
            scope.cancel()


@asynccontextmanager
async def open_service_group() -> AsyncGenerator[ServiceGroup]:
    """A block whose services are cancelled when, and only when, its body has left."""
    async with anyio.create_task_group() as task_group:
        group = ServiceGroup(task_group)
        try:
            yield group
        finally:
            group.cancel()
