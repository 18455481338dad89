"""``run --health PORT``: is the worker well?  For who looks after processes.

===========  ===========================================================================================
``/``        200 as long as somebody answers: the event loop runs
``/ready``   200 while the worker is registered and does not drain, else 503
``/worker``  what it is and its figures, as JSON
===========  ===========================================================================================

A worker without its server is alive: it tries again by itself, and its jobs do not depend on it; to restart it would
cut them off.  So only ``/ready`` tells of that.

One request a connection, bounded in size, time and number; whatever is wrong with one ends it alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio
from anyio.abc import SocketAttribute, SocketStream

from .. import PROTOCOL_VERSION, __version__
from .._bounds import HEALTH_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEAD_TIMEOUT
from .._errors import printable
from .._types import WorkerStatus
from ..dispatch._accept import serve_each
from ..runtime._worker import UniversalWorker
from ._exit import ListenError

__all__ = ["health_checks", "watched"]

_READY = (WorkerStatus.AVAILABLE, WorkerStatus.BUSY, WorkerStatus.FULL)

_log = logging.getLogger("livekit_agent")


def watched(
    worker: UniversalWorker, host: str, port: int
) -> Callable[[], AbstractAsyncContextManager[UniversalWorker]]:
    """A worker, and whoever asks how it is."""

    @asynccontextmanager
    async def surroundings() -> AsyncGenerator[UniversalWorker]:
        async with health_checks(worker, host, port):
            yield worker

    return surroundings


@asynccontextmanager
async def health_checks(worker: UniversalWorker, host: str, port: int) -> AsyncGenerator[int]:
    """Answer while the block lasts, on all addresses of this machine if ``host`` is empty; gives the port.

    Raises ListenError.
    """
    try:
        listener = await anyio.create_tcp_listener(local_host=host or None, local_port=port)
    except OSError as error:
        raise ListenError(
            f"cannot listen for health checks on {printable(host) or 'any address'}, port {port}: "
            f"{error.strerror or type(error).__name__}",
            hint="is another worker there?  --health takes [HOST:]PORT",
        ) from None
    connections = 0

    async def serve(stream: SocketStream) -> None:
        nonlocal connections
        connections += 1
        try:
            async with stream:
                if connections <= HEALTH_CONNECTIONS_MAX:
                    await _serve(worker, stream)
        finally:
            connections -= 1

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(serve_each, listener, serve)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - AnyIO's, no query of a database
        _log.info("health checks are answered on port %d: / and /ready, and /worker as JSON", port)
        yield port
        tasks.cancel_scope.cancel()


async def _serve(worker: UniversalWorker, stream: SocketStream) -> None:
    head = b""
    with (
        anyio.move_on_after(HTTP_HEAD_TIMEOUT),
        suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError),
    ):
        while b"\r\n\r\n" not in head:
            if len(head) > HTTP_HEAD_BYTES_MAX:
                return
            head += await stream.receive()
        await stream.send(_answer(worker, head))


def _answer(worker: UniversalWorker, head: bytes) -> bytes:
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    status, kind, text = "200 OK", "text/plain", worker.status.value
    if method not in (b"GET", b"HEAD"):
        status, text = "405 Method Not Allowed", "GET or HEAD"
    elif path == b"/ready":
        status = status if worker.status in _READY else "503 Service Unavailable"
    elif path == b"/worker":
        kind, text = "application/json", json.dumps(_figures(worker))
    elif path != b"/":
        status, text = "404 Not Found", "there are /, /ready and /worker"
    body = f"{text}\n".encode()
    lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close", "", "")
    return "\r\n".join(lines).encode() + (b"" if method == b"HEAD" else body)


def _figures(worker: UniversalWorker) -> dict[str, object]:
    options = worker.options
    return {
        "status": worker.status.value,
        "worker_id": worker.worker_id,
        "agent_name": options.agent_name,
        "job_type": options.job_type.name.lower(),
        **worker.stats.to_dict(),
        "sdk_version": __version__,
        "protocol_version": PROTOCOL_VERSION,
    }
