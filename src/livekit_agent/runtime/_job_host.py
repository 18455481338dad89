"""What does a job need of its worker?"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .. import events
from .._options import WorkerOptions
from .._types import JobStatus
from ..context import JobContext
from ..handlers import UniversalHandler

if TYPE_CHECKING:
    from ..api import LiveKitAPI
    from ..rooms import RoomConnector
    from ._job_end import JobEnd
    from ._service_group import ServiceGroup
    from ._timekeeper import Timekeeper

    Logger = logging.Logger | logging.LoggerAdapter[Any]
    Deliveries = Mapping[type[events.RoomEvent], Callable[[JobContext, Any], Awaitable[None] | None]]

__all__ = ["JobHost"]


class JobHost(Protocol):
    """The worker, as its jobs see it."""

    @property
    def handler(self) -> UniversalHandler: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def options(self) -> WorkerOptions: ...
    @property
    def rooms(self) -> RoomConnector: ...
    @property
    def room_url(self) -> str: ...
    @property
    def timekeeper(self) -> Timekeeper: ...
    @property
    def services(self) -> ServiceGroup: ...
    @property
    def log(self) -> Logger: ...

    def report(self, job_id: str, status: JobStatus, error: str) -> bool:
        """Send a status; False when there is no connection it could be delivered on."""
        ...

    def api(self) -> LiveKitAPI:
        """A client of the server's HTTP API, with the worker's key."""
        ...

    def publish(self, event: events.WorkerEvent, /) -> None:
        """Tell listeners."""
        ...

    def job_over(self, end: JobEnd) -> None:
        """The job has ended and its task with it: free its place."""
        ...

    def job_abandoned(self, end: JobEnd) -> None:
        """The job is reported and left, its task runs on: nobody waits for it any more."""
        ...

    def interrupted(self, exc: BaseException, /) -> None:
        """KeyboardInterrupt or the like came out of user code: end everything, then raise it."""
        ...
