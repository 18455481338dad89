"""The server's log: a line for each thing that an operator asks about.

Ids and verdicts; names are escaped and bounded, and neither metadata nor identities nor tokens are ever shown.
"""

from __future__ import annotations

import logging
from typing import Any

from .._errors import printable
from .._types import JobStatus
from ._events import (
    DispatchEvent,
    DispatchRecord,
    JobAssigned,
    JobEnded,
    JobForgotten,
    JobLost,
    MessageTolerated,
    WorkerGone,
    WorkerRegistered,
)

__all__ = ["Logger", "log_event"]

Logger = logging.Logger | logging.LoggerAdapter[Any]


def log_event(log: Logger, event: DispatchEvent) -> None:
    """One line each for what an operator asks about; names are escaped, metadata is never shown."""
    match event:
        case WorkerRegistered(worker=worker):
            log.info(
                "worker registered: %s, agent %r, %s jobs",
                worker.id,
                printable(worker.agent_name, 80),
                worker.job_type.name.lower(),
            )
        case WorkerGone(worker=worker):
            log.info("worker gone: %s, %s", worker.id, printable(event.reason))
        case JobAssigned():
            log.info("assigned job to worker: %s, %s", event.job.id, event.worker.id)
        case JobEnded():
            status = JobStatus(event.status).name
            log.info("job ended: %s, %s%s", event.job.id, status, event.error and f", {printable(event.error)}")
        case JobForgotten():
            log.info("job forgotten: %s, its worker's connection ended", event.job.id)
        case JobLost(job=None, dispatch=DispatchRecord() as dispatch):
            # A room's implicit dispatch is for nobody in particular; a named one was meant for somebody.
            level = logging.INFO if dispatch.agent_name else logging.DEBUG
            log.log(level, "nobody to dispatch: no worker is registered as %r", printable(dispatch.agent_name, 80))
        case JobLost():
            log.warning("job lost: %s, %s", event.job.id if event.job else "", event.reason)
        case MessageTolerated():
            log.debug("ignored: %s from %s, %s", event.kind, event.worker_id or "a stranger", printable(event.reason))
        case _:
            pass
