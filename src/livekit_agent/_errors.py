"""The exceptions of livekit_agent.

::

    AgentError(Exception)                      .code .hint .docs_url .retryable
    ├─ ConfigError(ValueError)                 .field .source
    ├─ HandlerDefinitionError(TypeError)
    ├─ WorkerError
    │  ├─ WorkerNotConnectedError
    │  ├─ ConnectionLostError(ConnectionError) .attempts .last_close_code
    │  │  └─ HandshakeError                    .status
    │  ├─ AuthenticationError                  .status
    │  ├─ ProtocolError                        abstract
    │  │  ├─ LocalProtocolError                we broke the protocol: a bug here or in the caller
    │  │  └─ RemoteProtocolError               the peer broke it          .close_code
    │  ├─ ResourceExhaustedError               .resource .used .limit
    │  └─ ShutdownTimeoutError(TimeoutError)   .unfinished
    ├─ JobError                                .job_id
    │  ├─ JobTimeoutError(TimeoutError)
    │  ├─ InvalidJobTypeError(ValueError)
    │  ├─ JobTerminated
    │  └─ RecoveryFailedError                  .action .attempts
    ├─ RoomError                               .reason
    │  ├─ RoomConnectError
    │  ├─ RoomClosedError
    │  ├─ RoomPermissionError(PermissionError)
    │  ├─ RpcError                             .rpc_code .data
    │  ├─ StreamError                          .description
    │  └─ DataTrackError
    ├─ DeviceError
    └─ ApiError                                .status .twirp_code .meta

Texts carry no secrets: whatever comes from a server or a native library passes :func:`redact` first.
Layer 1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ._bounds import PRINTED_CHARS_MAX

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from typing import Any

    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = [
    "AgentError",
    "ApiError",
    "AuthenticationError",
    "ConfigError",
    "ConnectionLostError",
    "DataTrackError",
    "DeviceError",
    "HandlerDefinitionError",
    "HandshakeError",
    "InvalidJobTypeError",
    "JobError",
    "JobTerminated",
    "JobTimeoutError",
    "LocalProtocolError",
    "ProtocolError",
    "RecoveryFailedError",
    "RemoteProtocolError",
    "ResourceExhaustedError",
    "RoomClosedError",
    "RoomConnectError",
    "RoomError",
    "RoomPermissionError",
    "RpcError",
    "ShutdownTimeoutError",
    "StreamError",
    "WorkerError",
    "WorkerNotConnectedError",
    "log_error",
    "printable",
    "redact",
]

_DOCS = "https://livekit-agent-sdk.readthedocs.io/errors/"

# A JWT is three base64url runs; the first always begins with eyJ ({" encoded).  Whoever quoted it may have cut it off
# or set other runs before it, so any number of runs will do.  `Bearer x` hides tokens that are not JWTs.
_JWT = re.compile(r"eyJ[A-Za-z0-9_\-]{5,}(?:\.[A-Za-z0-9_\-]*)*")
_BEARER = re.compile(r"(?i)(bearer\s+|access_token=)[^\s\"'&,;]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def redact(text: str) -> str:
    """``text`` without anything that looks like a token.

    A server (v1.13.5) quotes the whole token in its 401 body, and the native room library in its connect error.
    """
    return _BEARER.sub(r"\1[redacted]", _JWT.sub("[redacted token]", text))


def printable(text: str, limit: int = PRINTED_CHARS_MAX) -> str:
    """Peer text made safe for one line of log or error: redacted, control characters escaped, bounded."""
    clean = _CONTROL.sub(lambda m: repr(m.group())[1:-1], redact(text[: 8 * limit]))
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def log_error(log: Logger, error: BaseException, message: str, *args: object) -> None:
    """Log an error of somebody else's code with its traceback.

    One that quotes a token (a room connector's often holds the URL that it was given) is logged as redacted text: the
    exception itself would be formatted by handlers that know nothing of secrets.
    """
    import traceback

    text = "".join(traceback.format_exception(error))
    clean = redact(text)
    if clean == text:
        log.error(message, *args, exc_info=error)
    else:
        log.error(message + "\n%s", *args, clean)


class AgentError(Exception):
    """Root of every error this package raises on purpose.

    ``code`` is stable and names the docs anchor; ``hint`` says what to do about it and is printed as a note under any
    traceback; ``retryable`` says whether the same call may succeed later without a change.
    """

    code = "AGENT_ERROR"
    retryable = False
    default_message = "agent error"

    def __init__(self, message: str = "", *, hint: str = "", code: str = "") -> None:
        # Redacted here as well: a room connector or a rooms service of somebody else's may not have.
        super().__init__(redact(message) or self.default_message)
        self.hint = redact(hint)
        if code:
            self.code = code
        if hint:
            self.add_note(f"hint: {self.hint}")

    @property
    def message(self) -> str:
        """The one-line text."""
        return str(self.args[0]) if self.args else self.default_message

    @property
    def docs_url(self) -> str:
        """Where the error is explained."""
        return _DOCS + "#" + self.code.lower().replace("_", "-")

    # A subclass that is also a KeyError would otherwise print its message in quotes.
    def __str__(self) -> str:
        return self.message


class ConfigError(AgentError, ValueError):
    """A setting is missing or wrong.  ``field`` names it, ``source`` says where it is from; never a secret's value."""

    code = "CONFIG_INVALID"
    default_message = "invalid configuration"

    def __init__(self, message: str = "", *, field: str = "", source: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.field = field
        self.source = source


class HandlerDefinitionError(AgentError, TypeError):
    """A handler is not one: a method is missing, misspelt, or not callable."""

    code = "HANDLER_INVALID"
    default_message = "invalid handler"


class WorkerError(AgentError):
    """Something about the worker and its connection."""

    code = "WORKER_ERROR"
    default_message = "worker error"


class WorkerNotConnectedError(WorkerError):
    """The call needs a registered worker."""

    code = "WORKER_NOT_CONNECTED"
    retryable = True
    default_message = "worker not connected"


class ConnectionLostError(WorkerError, ConnectionError):
    """The connection to the server ended, or could not be made."""

    code = "CONNECTION_LOST"
    retryable = True
    default_message = "connection to LiveKit lost"

    def __init__(
        self,
        message: str = "",
        *,
        attempts: int = 0,
        last_close_code: int | None = None,
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.attempts = attempts
        self.last_close_code = last_close_code


class HandshakeError(ConnectionLostError):
    """The server answered the WebSocket upgrade with something else.  ``retry_after`` in seconds where it said so."""

    code = "HANDSHAKE_FAILED"
    default_message = "the server refused the WebSocket upgrade"

    def __init__(
        self, message: str = "", *, status: int = 0, retry_after: float | None = None, hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.status = status
        self.retry_after = retry_after


class AuthenticationError(WorkerError):
    """The server refused the worker's token (HTTP 401 or 403)."""

    code = "AUTH_FAILED"
    default_message = "the server refused the worker's token"

    def __init__(self, message: str = "", *, status: int = 401, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code or f"AUTH_{status}")
        self.status = status


class ProtocolError(WorkerError):
    """One side broke the protocol.  Abstract: raise one of the two below, which say whose fault it was."""

    code = "PROTOCOL_ERROR"
    default_message = "protocol error"

    def __init__(self, message: str = "", *, hint: str = "", code: str = "") -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract: use LocalProtocolError or RemoteProtocolError")
        super().__init__(message, hint=hint, code=code)


class LocalProtocolError(ProtocolError):
    """We asked the protocol core for something that its state does not allow.  Nothing was sent."""

    code = "PROTOCOL_LOCAL"
    default_message = "not allowed in this state"


class RemoteProtocolError(ProtocolError):
    """The peer sent something it may not.  ``close_code`` is what the WebSocket close frame should say."""

    code = "PROTOCOL_REMOTE"
    retryable = True
    default_message = "the peer broke the protocol"

    def __init__(self, message: str = "", *, close_code: int = 1002, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.close_code = close_code


class ResourceExhaustedError(WorkerError):
    """A limit was reached."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True
    default_message = "resource limits exceeded"

    def __init__(
        self,
        message: str = "",
        *,
        resource: str = "",
        used: float = 0.0,
        limit: float = 0.0,
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.resource = resource
        self.used = used
        self.limit = limit


class ShutdownTimeoutError(WorkerError, TimeoutError):
    """A stop asked to be strict did not end all jobs in time.  ``unfinished`` holds their ids."""

    code = "SHUTDOWN_TIMEOUT"
    default_message = "shutdown timeout exceeded"

    def __init__(self, message: str = "", *, unfinished: tuple[str, ...] = (), hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.unfinished = unfinished


class JobError(AgentError):
    """Something about one job; the worker goes on."""

    code = "JOB_ERROR"
    default_message = "job error"

    def __init__(self, message: str = "", *, job_id: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.job_id = job_id


class JobTimeoutError(JobError, TimeoutError):
    """The job ran past its ``job_timeout``.  The error of the ``JobEnded`` event; not raised into the handler."""

    code = "JOB_TIMEOUT"
    default_message = "job execution timeout"


class InvalidJobTypeError(JobError, ValueError):
    """A job type that this SDK does not know, or that this worker does not serve."""

    code = "JOB_TYPE_INVALID"
    default_message = "invalid job type"


class JobTerminated(JobError):
    """The job was ended from outside its handler; the message is the reason.  Informational: found on ``JobEnded``."""

    code = "JOB_TERMINATED"
    default_message = "job terminated"


class RecoveryFailedError(JobError):
    """A job could not be recovered."""

    code = "RECOVERY_FAILED"
    default_message = "job recovery failed"

    def __init__(
        self,
        message: str = "",
        *,
        job_id: str = "",
        action: object = None,
        attempts: int = 0,
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, job_id=job_id, hint=hint, code=code)
        self.action = action
        self.attempts = attempts


class RoomError(AgentError):
    """Something about a room and its connection."""

    code = "ROOM_ERROR"
    default_message = "room error"

    def __init__(self, message: str = "", *, reason: int = 0, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.reason = reason


class RoomConnectError(RoomError):
    """The room could not be joined."""

    code = "ROOM_CONNECT_FAILED"
    retryable = True
    default_message = "could not join the room"


class RoomClosedError(RoomError):
    """The call needs a connected room; ``reason`` is the disconnect reason where one is known."""

    code = "ROOM_CLOSED"
    default_message = "not connected to the room"


class RoomPermissionError(RoomError, PermissionError):
    """The agent's token does not allow the call.  Raised at once, where the library would stay silent for 10 s."""

    code = "ROOM_PERMISSION"
    default_message = "the agent's permissions do not allow this"


class RpcError(RoomError):
    """A remote call failed, or is to fail: raise it in a handler to answer with it.

    ``rpc_code`` is a :class:`~livekit_agent.rooms.RpcCode` or a number of the application's own; ``data`` is text
    for the caller.
    """

    code = "RPC_ERROR"
    default_message = "the remote call failed"

    def __init__(
        self, message: str = "", *, rpc_code: int = 1500, data: str = "", hint: str = "", code: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.rpc_code = rpc_code
        self.data = data


class StreamError(RoomError):
    """A text or byte stream ended before its end; ``code`` says why, ``description`` in the words of who ended it."""

    code = "STREAM_FAILED"
    default_message = "the stream failed"

    def __init__(self, message: str = "", *, description: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.description = redact(description)


class DataTrackError(RoomError):
    """A data track was not published, or is no longer there; ``code`` says which."""

    code = "DATA_TRACK_FAILED"
    default_message = "the data track failed"


class DeviceError(AgentError):
    """A microphone, speaker or screen of this machine cannot be used; ``code`` says why."""

    code = "DEVICE_FAILED"
    default_message = "the device failed"


class ApiError(AgentError):
    """A call of LiveKit's HTTP API failed.  ``twirp_code`` is the service's own word, such as ``not_found``.

    ``meta`` is what the service says beside: of a telephone call ``sip_status_code``, say.
    """

    code = "API_ERROR"
    default_message = "the LiveKit API call failed"

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        twirp_code: str = "",
        meta: Mapping[str, str] | None = None,
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.status = status
        self.twirp_code = twirp_code
        self.meta: Mapping[str, str] = dict(meta or {})
