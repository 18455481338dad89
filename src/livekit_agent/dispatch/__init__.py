"""A LiveKit dispatch server in the process: for ``dev``, the demo, tests, and anybody's worker.

``DispatchServer`` speaks the agent protocol to workers, and LiveKit's AgentDispatchService and RoomService to everybody
else.  Its rooms are in memory: participants join them through ``server.rooms``, not by WebRTC.  What differs from the
real server, and why: docs/dispatch-server.md.

Files: ``_core`` decides (pure), with ``_launches``, ``_endings`` and ``_selection``; ``_access`` admits, ``_http``,
``_routes`` and ``_twirp`` speak, ``_services`` serve, ``_rooms`` ties rooms to jobs, ``_server`` moves bytes.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._events import DispatchCreated as DispatchCreated
    from ._events import DispatchDeleted as DispatchDeleted
    from ._events import DispatchEvent as DispatchEvent
    from ._events import DispatchRecord as DispatchRecord
    from ._events import JobAssigned as JobAssigned
    from ._events import JobDeclined as JobDeclined
    from ._events import JobEnded as JobEnded
    from ._events import JobForgotten as JobForgotten
    from ._events import JobLost as JobLost
    from ._events import JobOffered as JobOffered
    from ._events import JobPhase as JobPhase
    from ._events import JobRecord as JobRecord
    from ._events import JobStatusChanged as JobStatusChanged
    from ._events import JobTerminated as JobTerminated
    from ._events import MessageTolerated as MessageTolerated
    from ._events import ParticipantRemovalDue as ParticipantRemovalDue
    from ._events import StatusUpdate as StatusUpdate
    from ._events import WorkerGone as WorkerGone
    from ._events import WorkerRecord as WorkerRecord
    from ._events import WorkerRegistered as WorkerRegistered
    from ._events import WorkerStatusChanged as WorkerStatusChanged
    from ._server import DispatchServer as DispatchServer

__all__ = [
    "DispatchCreated",
    "DispatchDeleted",
    "DispatchEvent",
    "DispatchRecord",
    "DispatchServer",
    "JobAssigned",
    "JobDeclined",
    "JobEnded",
    "JobForgotten",
    "JobLost",
    "JobOffered",
    "JobPhase",
    "JobRecord",
    "JobStatusChanged",
    "JobTerminated",
    "MessageTolerated",
    "ParticipantRemovalDue",
    "StatusUpdate",
    "WorkerGone",
    "WorkerRecord",
    "WorkerRegistered",
    "WorkerStatusChanged",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = "_server" if name == "DispatchServer" else "_events"
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
