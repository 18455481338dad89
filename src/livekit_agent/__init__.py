"""LiveKit agent workers with structured concurrency, on trio or asyncio.

Layers, downward only (docs/design/architecture.md; tests/test_architecture.py holds them):
values (``_types _errors _options _bounds``) < pure machines (``protocol``, ``dispatch._core``, ``rooms._ledger``,
``simulation``) < services (``rooms``, ``handlers``, ``load``, ``events``, ``context``, ``api``) < the programs
(``runtime``, ``dispatch``) < configuration and testing (``config``) < ``cli``.

This module imports nothing until a name is used: `enum`, `dataclasses` and `typing` alone would triple the time of a
bare interpreter, and a tool that only wants ``__version__`` should not load a WebRTC stack.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import events as events
    from ._errors import AgentError as AgentError
    from ._errors import ApiError as ApiError
    from ._errors import AuthenticationError as AuthenticationError
    from ._errors import ConfigError as ConfigError
    from ._errors import ConnectionLostError as ConnectionLostError
    from ._errors import DataTrackError as DataTrackError
    from ._errors import DeviceError as DeviceError
    from ._errors import HandlerDefinitionError as HandlerDefinitionError
    from ._errors import HandshakeError as HandshakeError
    from ._errors import InvalidJobTypeError as InvalidJobTypeError
    from ._errors import JobError as JobError
    from ._errors import JobTerminated as JobTerminated
    from ._errors import JobTimeoutError as JobTimeoutError
    from ._errors import LocalProtocolError as LocalProtocolError
    from ._errors import ProtocolError as ProtocolError
    from ._errors import RecoveryFailedError as RecoveryFailedError
    from ._errors import RemoteProtocolError as RemoteProtocolError
    from ._errors import ResourceExhaustedError as ResourceExhaustedError
    from ._errors import RoomClosedError as RoomClosedError
    from ._errors import RoomConnectError as RoomConnectError
    from ._errors import RoomError as RoomError
    from ._errors import RoomPermissionError as RoomPermissionError
    from ._errors import RpcError as RpcError
    from ._errors import ShutdownTimeoutError as ShutdownTimeoutError
    from ._errors import StreamError as StreamError
    from ._errors import WorkerError as WorkerError
    from ._errors import WorkerNotConnectedError as WorkerNotConnectedError
    from ._options import WorkerOptions as WorkerOptions
    from ._types import AutoSubscribe as AutoSubscribe
    from ._types import CancelReason as CancelReason
    from ._types import ConnectionQuality as ConnectionQuality
    from ._types import Job as Job
    from ._types import JobMetadata as JobMetadata
    from ._types import JobState as JobState
    from ._types import JobStatus as JobStatus
    from ._types import JobType as JobType
    from ._types import ParticipantInfo as ParticipantInfo
    from ._types import ParticipantPermissions as ParticipantPermissions
    from ._types import Reject as Reject
    from ._types import RoomInfo as RoomInfo
    from ._types import ShutdownReport as ShutdownReport
    from ._types import WorkerStats as WorkerStats
    from ._types import WorkerStatus as WorkerStatus
    from .config import Config as Config
    from .config import get_env as get_env
    from .config import get_env_bool as get_env_bool
    from .config import get_env_duration as get_env_duration
    from .config import get_env_int as get_env_int
    from .config import load_config_from_env as load_config_from_env
    from .config import parse_duration as parse_duration
    from .config import validate_config as validate_config
    from .context import JobContext as JobContext
    from .handlers import BaseHandler as BaseHandler
    from .handlers import SimpleUniversalHandler as SimpleUniversalHandler
    from .handlers import UniversalHandler as UniversalHandler
    from .load import CustomLoadCalculator as CustomLoadCalculator
    from .load import DefaultLoadCalculator as DefaultLoadCalculator
    from .load import LoadCalculator as LoadCalculator
    from .load import LoadParts as LoadParts
    from .runtime._rooms import ServerRooms as ServerRooms
    from .runtime._run import run as run
    from .runtime._worker import UniversalWorker as UniversalWorker

__version__ = "0.1.0"

PROTOCOL_VERSION = 1
"""The agent protocol spoken (the server's ``agent_protocol``)."""

# public name -> the module that holds it
_HOMES = {
    "events": "",
    **dict.fromkeys(
        (
            "AgentError", "ApiError", "AuthenticationError", "ConfigError", "ConnectionLostError",
            "DataTrackError", "DeviceError", "HandlerDefinitionError", "HandshakeError", "InvalidJobTypeError",
            "JobError", "JobTerminated", "JobTimeoutError", "LocalProtocolError", "ProtocolError",
            "RecoveryFailedError", "RemoteProtocolError", "ResourceExhaustedError", "RoomClosedError",
            "RoomConnectError", "RoomError", "RoomPermissionError", "RpcError", "ShutdownTimeoutError", "StreamError",
            "WorkerError", "WorkerNotConnectedError",
        ),
        "_errors",
    ),
    **dict.fromkeys(
        (
            "AutoSubscribe", "CancelReason", "ConnectionQuality", "Job", "JobMetadata", "JobState", "JobStatus",
            "JobType", "ParticipantInfo", "ParticipantPermissions", "Reject", "RoomInfo", "ShutdownReport",
            "WorkerStats", "WorkerStatus",
        ),
        "_types",
    ),
    **dict.fromkeys(
        (
            "Config", "get_env", "get_env_bool", "get_env_duration", "get_env_int",
            "load_config_from_env", "parse_duration", "validate_config",
        ),
        "config",
    ),
    **dict.fromkeys(("BaseHandler", "SimpleUniversalHandler", "UniversalHandler"), "handlers"),
    **dict.fromkeys(("CustomLoadCalculator", "DefaultLoadCalculator", "LoadCalculator", "LoadParts"), "load"),
    "JobContext": "context",
    "ServerRooms": "runtime._rooms",
    "UniversalWorker": "runtime._worker",
    "WorkerOptions": "_options",
    "run": "runtime._run",
}  # fmt: skip

__all__ = ["PROTOCOL_VERSION", "__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll] - one list


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{home or name}")
    value = module if not home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
