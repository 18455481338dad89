"""Every limit of the program, in one table, with what happens when it is reached and why it is what it is.

A buffer that is not in this table is a bug.  Layer 1.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BOUNDS", "Bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One limit."""

    name: str
    maximum: float
    unit: str
    when_full: str
    why: str


def _bound(name: str, maximum: float, unit: str, when_full: str, why: str) -> Bound:
    return Bound(name=name, maximum=maximum, unit=unit, when_full=when_full, why=why)


KIB, MIB = 1024, 1024 * 1024

# --- the wire -------------------------------------------------------------------------------------------------

HANDSHAKE_BYTES_MAX = 64 * KIB
MESSAGE_BYTES_MAX = 16 * MIB
FRAGMENTS_MAX = 131_072
BAD_FRAMES_MAX = 3
OUTBOX_BYTES_MAX = 4 * MIB
ERROR_TEXT_CHARS_MAX = 1_000
READ_BYTES_MAX = 64 * KIB

# --- time, in seconds -----------------------------------------------------------------------------------------

CONNECT_TIMEOUT = 10.0
HANDSHAKE_TIMEOUT = 10.0
REGISTER_TIMEOUT = 10.0
ANSWER_TIMEOUT = 2.5
ASSIGNMENT_TIMEOUT = 7.5
STATUS_SETTLE_TIME = 0.05
PING_AFTER_SILENCE = 15.0
DEAD_AFTER_SILENCE = 30.0
WRITE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
FLUSH_TIMEOUT = 2.0
TERMINATED_LEAVE_TIMEOUT = 2.8
ROOM_JOIN_TIMEOUT = 20.0
ROOM_LEAVE_TIMEOUT = 2.0
LASTING_REGISTRATION = 5.0
BACKOFF_BASE = 0.5
BACKOFF_CAP = 30.0
LOAD_INTERVAL = 2.5

# --- the worker -----------------------------------------------------------------------------------------------

JOBS_MAX = 100_000
ENDED_JOBS_MAX = 10_000
WORKER_EVENTS_MAX = 1_000
SYNC_REQUEST_THREADS_MAX = 40

# --- rooms ----------------------------------------------------------------------------------------------------

ROOM_EVENTS_MAX = 1_000
ROOM_LIFECYCLE_EVENTS_MAX = 10_000
EARLY_STREAM_EVENTS_MAX = 256
ROOM_REQUEST_TIMEOUT = 30.0

# --- the dispatch server --------------------------------------------------------------------------------------

HTTP_BODY_BYTES_MAX = 10 * MIB
HTTP_HEAD_BYTES_MAX = 64 * KIB
SERVER_CONNECTIONS_MAX = 10_000

# --- configuration --------------------------------------------------------------------------------------------

SECRET_FILE_BYTES_MAX = 64 * KIB

# One limit a row reads as a table.
# fmt: off
BOUNDS: tuple[Bound, ...] = (
    _bound("handshake", HANDSHAKE_BYTES_MAX, "bytes", "HandshakeError",
           "heads are under 2 KiB; a token may be large (the server itself answers 431 near 1 MB)"),
    _bound("message", MESSAGE_BYTES_MAX, "bytes", "close 1009, RemoteProtocolError",
           "an assignment may rightly carry 1.2 MiB and the server sets no limit of its own"),
    _bound("fragments", FRAGMENTS_MAX, "frames a message", "close 1009, RemoteProtocolError",
           "the message bound alone lets empty fragments go on for ever"),
    _bound("bad_frames", BAD_FRAMES_MAX, "messages a connection", "RemoteProtocolError, reconnect",
           "one undecodable message may be a newer server's; a stream of them is not our protocol"),
    _bound("outbox", OUTBOX_BYTES_MAX, "bytes", "status and load updates wait in their own slots; the write times out",
           "what we send is small; only a peer that stopped reading can fill this"),
    _bound("error_text", ERROR_TEXT_CHARS_MAX, "characters", "cut with an ellipsis", "job errors go into server logs"),
    _bound("connect", CONNECT_TIMEOUT, "s", "ConnectionLostError, retry", "a black-holed address answers nothing"),
    _bound("handshake_time", HANDSHAKE_TIMEOUT, "s", "HandshakeError, retry", "a server that accepts and says nothing"),
    _bound("register", REGISTER_TIMEOUT, "s", "close, retry", "the server's own register deadline is 10 s"),
    _bound("answer", ANSWER_TIMEOUT, "s", "decline, handler cancelled",
           "the real server's budget is 2.8 s for all workers it tries in turn"),
    _bound("assignment", ASSIGNMENT_TIMEOUT, "s", "reservation released, later assignment refused with FAILED",
           "the server says nothing when it gives an accepted job to nobody"),
    _bound("status_settle", STATUS_SETTLE_TIME, "s", "the final status waits until then",
           "the server records the job after it wrote the assignment: 11 of 360 immediate statuses were lost"),
    _bound("ping_silence", PING_AFTER_SILENCE, "s", "a WebSocket ping", "the server pings every 10 s"),
    _bound("dead_silence", DEAD_AFTER_SILENCE, "s", "ConnectionLostError, reconnect",
           "three pings of the server missed"),
    _bound("write", WRITE_TIMEOUT, "s", "ConnectionLostError, reconnect", "a peer that stopped reading"),
    _bound("close", CLOSE_TIMEOUT, "s", "TCP closed without the echo", "the server echoes at once or never"),
    _bound("flush", FLUSH_TIMEOUT, "s", "reported in ShutdownReport.statuses_unproven", "part of stop's promise"),
    _bound("terminated_leave", TERMINATED_LEAVE_TIMEOUT, "s", "the room is left whatever the budgets say",
           "the server removes the participant 3 s after a termination"),
    _bound("room_join", ROOM_JOIN_TIMEOUT, "s", "job FAILED", "ICE gives up after 15 s; a job must not wait for ever"),
    _bound("room_leave", ROOM_LEAVE_TIMEOUT, "s", "the handle is dropped",
           "disconnect takes 6 ms when the server lives"),
    _bound("jobs", JOBS_MAX, "jobs", "offer declined", "an unlimited worker still has a machine under it"),
    _bound("ended_jobs", ENDED_JOBS_MAX, "jobs", "the oldest is forgotten",
           "remembering ended jobs makes duplicates harmless; only recent ones can come"),
    _bound("worker_events", WORKER_EVENTS_MAX, "events a subscriber", "the oldest is dropped and counted",
           "a slow observer must not slow the worker"),
    _bound("room_events", ROOM_EVENTS_MAX, "events a job", "data, speakers and quality drop the oldest and count",
           "ten seconds of a busy room"),
    _bound("room_lifecycle_events", ROOM_LIFECYCLE_EVENTS_MAX, "events a job", "the job ends FAILED",
           "a lost join or leave would make the handler's picture wrong for ever"),
    _bound("early_stream_events", EARLY_STREAM_EVENTS_MAX, "events", "the oldest is dropped and its buffer freed",
           "a stream's handle is known only from the response, its first events may come before"),
    _bound("room_request", ROOM_REQUEST_TIMEOUT, "s", "RoomError", "the native library may never answer"),
    _bound("http_body", HTTP_BODY_BYTES_MAX, "bytes", "413", "the real server's own limit"),
    _bound("http_head", HTTP_HEAD_BYTES_MAX, "bytes", "431", "as the handshake"),
    _bound("connections", SERVER_CONNECTIONS_MAX, "connections", "accepted and closed", "file descriptors are finite"),
    _bound("sync_request_threads", SYNC_REQUEST_THREADS_MAX, "threads", "the offer waits, then is declined at 2.5 s",
           "AnyIO's own default limiter"),
    _bound("secret_file", SECRET_FILE_BYTES_MAX, "bytes", "ConfigError",
           "a key or secret; a wrong path may name anything"),
)
# fmt: on
