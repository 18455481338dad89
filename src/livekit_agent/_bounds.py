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
JSON_CHARS_MAX = 2 * MIB
JSON_DEPTH_MAX = 50
FRAGMENTS_MAX = 131_072
BAD_FRAMES_MAX = 3
OUTBOX_BYTES_MAX = 4 * MIB
ERROR_TEXT_CHARS_MAX = 1_000
READ_BYTES_MAX = 64 * KIB
REFUSAL_BYTES_MAX = 2 * KIB
CLOSE_REASON_CHARS_MAX = 100
FRAMES_AT_ONCE_MAX = 100
DEPLOYMENT_BYTES_MAX = 64

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
DELIVERY_TIMEOUT = FLUSH_TIMEOUT / 2
TERMINATED_LEAVE_TIMEOUT = 2.8
ROOM_JOIN_TIMEOUT = 20.0
ROOM_LEAVE_TIMEOUT = 2.0
LASTING_REGISTRATION = 5.0
BACKOFF_BASE = 0.5
BACKOFF_CAP = 30.0
RETRY_AFTER_MAX = 3600.0
LOAD_INTERVAL = 2.5
LOOP_LATE_MAX = 1.0

# --- the worker -----------------------------------------------------------------------------------------------

JOBS_MAX = 100_000
OFFERS_MAX = 10_000
ENDED_JOBS_MAX = 10_000
WORKER_EVENTS_MAX = 1_000
SYNC_REQUEST_THREADS_MAX = 40
JOB_JSON_CHARS_MAX = 4 * MIB
DEAD_ENTRIES_MAX = 64

# --- rooms ----------------------------------------------------------------------------------------------------

ROOM_EVENTS_MAX = 1_000
ROOM_LIFECYCLE_EVENTS_MAX = 10_000
EARLY_STREAM_EVENTS_MAX = 256
ROOM_REQUEST_TIMEOUT = 30.0
DATA_PACKET_BYTES_MAX = 64_000
DATA_BUFFER_BYTES = 2 * MIB
RPC_INVOCATIONS_MAX = 1_000
STREAMS_WAITING_MAX = 256
STREAM_BUFFER_BYTES_MAX = 64 * MIB
STREAM_READ_ALL_BYTES_MAX = 16 * MIB
STREAM_PIECE_BYTES = 64 * KIB
RPC_RESPONSE_TIMEOUT = 15.0
RPC_TIMEOUT_MAX = 4_294_967.0
AUDIO_STREAM_FRAMES = 100
AUDIO_FRAME_MS_MAX = 1_000
VIDEO_STREAM_FRAMES = 4
AUDIO_MIXER_BUFFER = 1.0
PRECONNECT_BYTES_MAX = 16 * MIB
MEMORY_SOUND_AHEAD = 4.0
DATA_TRACK_FRAMES = 64
DATA_TRACK_FRAMES_MAX = 65_536
DATA_TRACK_PUSH_FRAMES_MAX = 16
DATA_TRACK_NAME_CHARS_MAX = 256
PICTURE_SIDE_MAX = 16_384
SENT_PICTURE_SIDE_MIN = 4
DEVICE_TIMEOUT = 10.0
DEVICE_CLOSE_TIMEOUT = 2.0
SPEAKER_QUEUE = 0.2
NATIVE_MAILBOX_EVENTS_MAX = 10_000
NATIVE_QUIET_TIME = 0.05
NATIVE_EXIT_TIMEOUT = 2.0
REMOTE_OUTBOX_BYTES_MAX = 64 * MIB
REMOTE_MEDIA_BYTES_MAX = 16 * MIB
REMOTE_CALLS_MAX = 10_000
REMOTE_HANDLES_MAX = 10_000
REMOTE_QUEUE_MS_MAX = 60_000
REMOTE_NAMES_CHARS_MAX = 4_096

# --- the dispatch server --------------------------------------------------------------------------------------

HTTP_BODY_BYTES_MAX = 10 * MIB
HTTP_HEAD_BYTES_MAX = 64 * KIB
SERVER_CONNECTIONS_MAX = 10_000
SERVER_JOBS_MAX = 100_000
SERVER_OUTBOX_BYTES_MAX = 32 * MIB
SERVER_EVENTS_MAX = 10_000
DISPATCHES_PER_ROOM_MAX = 10_000
JOB_HISTORY_MAX = 100
OFFER_BUDGET = 2.8
SIMULATED_OFFER_BUDGET = 10.0
TERMINATED_REMOVAL_TIME = 3.0
HTTP_HEAD_TIMEOUT = 10.0
HTTP_BODY_TIMEOUT = 30.0
HTTP_IDLE_TIMEOUT = 60.0
HEALTH_CONNECTIONS_MAX = 100
MEMORY_PIPE_BYTES_MAX = 64 * KIB
METADATA_BYTES_MAX = 512 * KIB
ATTRIBUTES_BYTES_MAX = 64 * KIB
ROOM_NAME_BYTES_MAX = 256
PARTICIPANT_NAME_BYTES_MAX = 256
ROOM_EMPTY_TIMEOUT = 300.0
ROOM_DEPARTURE_TIMEOUT = 20.0
KEEPALIVE_INTERVAL = 10.0
ACCEPT_PAUSE = 0.1

# --- the HTTP API's client ------------------------------------------------------------------------------------

API_TIMEOUT = 10.0
API_RESPONSE_BYTES_MAX = 64 * MIB
API_ERROR_WORDS_MAX = 16

# --- configuration --------------------------------------------------------------------------------------------

SECRET_FILE_BYTES_MAX = 64 * KIB
DURATION_CHARS_MAX = 64

# --- the command line, and what is shown to people ----------------------------------------------------------

TOKEN_TTL_MAX = 100 * 365 * 86_400
SHOWN_TEXT_BYTES_MAX = 64 * KIB
DEMO_TIMEOUT = 30.0
PRINTED_CHARS_MAX = 300

# --- simulation -------------------------------------------------------------------------------------------------

VIRTUAL_TIME_MAX = 3600.0
DEADLOCK_LINES_MAX = 200
VIOLATION_NOTES_MAX = 25
LEAKS_KEPT_MAX = 100

# One limit a row reads as a table.
# fmt: off
BOUNDS: tuple[Bound, ...] = (
    _bound("handshake", HANDSHAKE_BYTES_MAX, "bytes", "HandshakeError",
           "heads are under 2 KiB; a token may be large (the server itself answers 431 near 1 MB)"),
    _bound("message", MESSAGE_BYTES_MAX, "bytes", "close 1009, RemoteProtocolError",
           "an assignment may rightly carry 1.2 MiB and the server sets no limit of its own"),
    _bound("json", JSON_CHARS_MAX, "characters a text message", "undecodable, as garbage is",
           "parsed JSON takes thirty times its size; the real server's own limit for a worker's message"),
    _bound("json_depth", JSON_DEPTH_MAX, "levels a text message", "undecodable, as garbage is",
           "the messages are four deep; protobuf itself stops at 100"),
    _bound("fragments", FRAGMENTS_MAX, "frames a message", "close 1009, RemoteProtocolError",
           "the message bound alone lets empty fragments go on for ever"),
    _bound("bad_frames", BAD_FRAMES_MAX, "messages a connection", "RemoteProtocolError, reconnect",
           "one undecodable message may be a newer server's; a stream of them is not our protocol"),
    _bound("outbox", OUTBOX_BYTES_MAX, "bytes", "ConnectionLostError, reconnect",
           "what we send is small; only a peer that stopped reading can fill this"),
    _bound("error_text", ERROR_TEXT_CHARS_MAX, "characters", "cut with an ellipsis", "job errors go into server logs"),
    _bound("read", READ_BYTES_MAX, "bytes a read", "the rest waits for the next read",
           "what one connection may hold the loop up for"),
    _bound("frames_at_once", FRAMES_AT_ONCE_MAX, "frames taken in one go", "the rest goes the general way",
           "a flood of empty frames must not become a list of them all"),
    _bound("refusal", REFUSAL_BYTES_MAX, "bytes of a refusal's body", "the rest is not read",
           "it is for the error's text; the status is what counts"),
    _bound("close_reason", CLOSE_REASON_CHARS_MAX, "characters of our Close's reason", "cut",
           "a control frame holds 123 bytes"),
    _bound("deployment", DEPLOYMENT_BYTES_MAX, "bytes", "ConfigError; of a stranger's, refused",
           "the real server drops the connection of a worker that has a longer one"),
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
    _bound("load", LOAD_INTERVAL, "s", "the load is reckoned and told again", "the interval of LiveKit's own workers"),
    _bound("loop_late", LOOP_LATE_MAX, "s that the load is overdue", "a warning: something blocks the event loop",
           "an offer must be answered within 2.5 s, and a blocked loop holds up every job"),
    _bound("backoff_first", BACKOFF_BASE, "s before the second attempt", "tried again then, or at random before",
           "workers that lost one server must not all come back at once"),
    _bound("backoff", BACKOFF_CAP, "s between attempts", "grows no further", "a server that is back is found soon"),
    _bound("lasting_registration", LASTING_REGISTRATION, "s registered", "the backoff begins anew",
           "registered and dropped at once, again and again, is no success"),
    _bound("retry_after", RETRY_AFTER_MAX, "s", "tried again then",
           "one header must not put a worker to sleep for years"),
    _bound("close", CLOSE_TIMEOUT, "s", "TCP closed without the echo", "the server echoes at once or never"),
    _bound("flush", FLUSH_TIMEOUT, "s", "reported in ShutdownReport.statuses_unproven", "part of stop's promise"),
    _bound("delivery", DELIVERY_TIMEOUT, "s", "the room is left with the status unproven",
           "half of the flush; the other half is for leaving"),
    _bound("terminated_leave", TERMINATED_LEAVE_TIMEOUT, "s", "the room is left whatever the budgets say",
           "the server removes the participant 3 s after a termination"),
    _bound("room_join", ROOM_JOIN_TIMEOUT, "s", "job FAILED", "ICE gives up after 15 s; a job must not wait for ever"),
    _bound("room_leave", ROOM_LEAVE_TIMEOUT, "s", "the handle is dropped",
           "disconnect takes 6 ms when the server lives"),
    _bound("jobs", JOBS_MAX, "jobs", "offer declined", "an unlimited worker still has a machine under it"),
    _bound("offers", OFFERS_MAX, "open offers", "offer declined",
           "each is a decoded job and a task until its answer; a real server has about 25 under way at once"),
    _bound("ended_jobs", ENDED_JOBS_MAX, "jobs", "the oldest is forgotten",
           "remembering ended jobs makes duplicates harmless; only recent ones can come"),
    _bound("dead_entries", DEAD_ENTRIES_MAX, "stopped timers, and as many more as are live", "they are thrown away",
           "each answered offer leaves two that would lie there for seconds"),
    _bound("job_json", JOB_JSON_CHARS_MAX, "characters of a job's metadata", "ValueError",
           "parsed JSON takes thirty times its size"),
    _bound("worker_events", WORKER_EVENTS_MAX, "events a subscriber", "the oldest is dropped and counted",
           "a slow observer must not slow the worker"),
    _bound("room_events", ROOM_EVENTS_MAX, "events a job", "data, speakers and quality drop the oldest and count",
           "ten seconds of a busy room"),
    _bound("room_lifecycle_events", ROOM_LIFECYCLE_EVENTS_MAX, "events a job", "the job ends FAILED",
           "a lost join or leave would make the handler's picture wrong for ever"),
    _bound("early_stream_events", EARLY_STREAM_EVENTS_MAX, "events", "the oldest is dropped and its buffer freed",
           "a stream's handle is known only from the response, its first events may come before"),
    _bound("room_request", ROOM_REQUEST_TIMEOUT, "s", "RoomError", "the native library may never answer"),
    _bound("data_packet", DATA_PACKET_BYTES_MAX, "bytes", "RoomError ROOM_DATA_TOO_LARGE, nothing sent",
           "the negotiated maximum of a data channel message, topic and header included"),
    _bound("data_buffer", DATA_BUFFER_BYTES, "bytes a room and kind, unless chosen", "publish_data waits",
           "the library takes any number of packets; its own data channel's threshold is the same"),
    _bound("streams_waiting", STREAMS_WAITING_MAX, "streams a listener", "the oldest is thrown away and counted",
           "a peer may open as many as it likes"),
    _bound("stream_buffer", STREAM_BUFFER_BYTES_MAX, "bytes a stream, unless chosen", "ResourceExhaustedError, freed",
           "the library cannot be asked to wait once reading has begun"),
    _bound("stream_read_all", STREAM_READ_ALL_BYTES_MAX, "bytes, unless chosen", "StreamError STREAM_TOO_LARGE",
           "whoever wants more at once should say so"),
    _bound("stream_piece", STREAM_PIECE_BYTES, "bytes a write of the library's", "the next piece waits",
           "where sending shows progress and can be cancelled"),
    _bound("rpc_invocations", RPC_INVOCATIONS_MAX, "calls a serve_rpc block", "the call is answered with error 1500",
           "each is a task; a peer may call as often as it likes"),
    _bound("rpc_response", RPC_RESPONSE_TIMEOUT, "s", "RpcError 1502", "the default of LiveKit's own clients"),
    _bound("rpc_timeout", RPC_TIMEOUT_MAX, "s a call, and for its way there and back", "ValueError",
           "49 days: a whole number of milliseconds in 32 bits, on the wire"),
    _bound("audio_stream", AUDIO_STREAM_FRAMES, "frames a stream, unless chosen", "the oldest is dropped and counted",
           "a second of sound; who is later than that wants to hear what is said now"),
    _bound("audio_frame", AUDIO_FRAME_MS_MAX, "ms a frame, and whole tens", "ValueError; over the wire RoomError",
           "who gathers for longer than a second wants a file"),
    _bound("video_stream", VIDEO_STREAM_FRAMES, "frames a stream, unless chosen", "the oldest is dropped and counted",
           "a picture takes megabytes, and only the latest one matters"),
    _bound("data_track", DATA_TRACK_FRAMES, "frames a stream, unless chosen", "as its Overflow says, and counted",
           "each frame is worth something now; a sensor's at 50 a second"),
    _bound("data_track_most", DATA_TRACK_FRAMES_MAX, "frames a stream", "ValueError",
           "the library holds as many more; it ends the process when it is asked for two thousand million"),
    _bound("data_track_push", DATA_TRACK_PUSH_FRAMES_MAX, "frames a track, in memory", "the push is refused",
           "the library's own queue"),
    _bound("data_track_name", DATA_TRACK_NAME_CHARS_MAX, "characters, in memory", "publishing is refused",
           "the real server's"),
    _bound("picture_side", PICTURE_SIDE_MAX, "pixels", "ValueError", "the codecs' own; a header may claim any size"),
    _bound("sent_picture_side", SENT_PICTURE_SIDE_MIN, "pixels at least, of what is sent", "ValueError",
           "the library halves pictures twice, and ends the process over one without width or height"),
    _bound("audio_mixer", AUDIO_MIXER_BUFFER, "s an input", "the input is not read on; its stream drops its oldest",
           "who does not read the mixer must not fill memory"),
    _bound("preconnect", PRECONNECT_BYTES_MAX, "bytes a recording", "StreamError STREAM_TOO_LARGE",
           "three minutes of sound at 48 kHz; a recording covers the seconds of connecting"),
    _bound("memory_sound", MEMORY_SOUND_AHEAD, "s of sound that a source without a queue is ahead, in memory",
           "all that waits is forgotten", "as a real receiver's buffer does, of 200 packets of 20 ms"),
    _bound("device", DEVICE_TIMEOUT, "s", "DeviceError DEVICE_TIMEOUT; what opens later is closed at once",
           "a sound server that is there and does not answer holds its clients for ever"),
    _bound("device_close", DEVICE_CLOSE_TIMEOUT, "s", "the block is left, its thread closes the device whenever it can",
           "an agent must be able to leave whatever a driver does"),
    _bound("speaker", SPEAKER_QUEUE, "s of sound, unless chosen", "write waits",
           "enough for a busy event loop; more would be heard as delay"),
    _bound("native_mailbox", NATIVE_MAILBOX_EVENTS_MAX, "events an event loop",
           "data, speakers and quality are given back unseen and counted; the rest still comes in",
           "a blocked event loop must not fill memory with packets; joins and leaves are few"),
    _bound("native_quiet", NATIVE_QUIET_TIME, "s", "the interpreter may finalise",
           "a native thread that still waits for the interpreter when it goes aborts the process"),
    _bound("native_exit", NATIVE_EXIT_TIMEOUT, "s", "the interpreter finalises all the same",
           "a process must end; the library was quiet after 50 ms in every one of 560 measured exits"),
    _bound("remote_outbox", REMOTE_OUTBOX_BYTES_MAX, "bytes a connection to a room on a server, either way",
           "the connection is closed with 4008, the room is over with reason 0",
           "what one stream may hold unread; whoever is further behind does not read"),
    _bound("remote_media", REMOTE_MEDIA_BYTES_MAX, "bytes of frames a connection to a room on a server, either way",
           "the oldest frame is dropped and counted", "two large pictures; what is older than that is late"),
    _bound("remote_calls", REMOTE_CALLS_MAX, "unanswered requests a connection to a room on a server",
           "closed with 4008", "each may hold a timer; together they may hold as many bytes as the outbox"),
    _bound("remote_handles", REMOTE_HANDLES_MAX, "sources, tracks, streams and keys a connection to a room on a server",
           "closed with 4008", "each is an object in the server's memory"),
    _bound("remote_queue", REMOTE_QUEUE_MS_MAX, "ms of sound a source of a room on a server", "the request is refused",
           "the server's memory holds what waits in it"),
    _bound("remote_names", REMOTE_NAMES_CHARS_MAX, "characters of whom a key is for, in a room on a server",
           "the request is refused", "they are kept as long as the key"),
    _bound("http_body", HTTP_BODY_BYTES_MAX, "bytes", "413", "the real server's own limit"),
    _bound("http_head", HTTP_HEAD_BYTES_MAX, "bytes", "431", "as the handshake"),
    _bound("connections", SERVER_CONNECTIONS_MAX, "connections", "accepted and closed", "file descriptors are finite"),
    _bound("server_jobs", SERVER_JOBS_MAX, "jobs", "the oldest that is over is forgotten",
           "the record of a server that runs for weeks"),
    _bound("server_outbox", SERVER_OUTBOX_BYTES_MAX, "bytes a worker", "the worker's connection is dropped",
           "twenty of the largest assignments; the real server lets a worker that stopped reading swallow offers"),
    _bound("server_events", SERVER_EVENTS_MAX, "events a subscriber", "the oldest is dropped and counted",
           "an observer must not slow the server"),
    _bound("dispatches", DISPATCHES_PER_ROOM_MAX, "dispatches a room", "429 resource_exhausted",
           "each costs launches at every join"),
    _bound("job_history", JOB_HISTORY_MAX, "statuses a job", "the oldest is forgotten", "a worker may repeat itself"),
    _bound("offer_budget", OFFER_BUDGET, "s", "the job is lost",
           "the real server's 3 s for a launch, less the 0.2 s in which its nodes bid"),
    _bound("simulated_offer", SIMULATED_OFFER_BUDGET, "s", "the job is lost", "the real server's"),
    _bound("terminated_removal", TERMINATED_REMOVAL_TIME, "s", "the agent's participant is removed",
           "the real server's"),
    _bound("http_head_time", HTTP_HEAD_TIMEOUT, "s", "closed without an answer", "a head dripped byte by byte"),
    _bound("http_body_time", HTTP_BODY_TIMEOUT, "s", "408", "as the head, for 10 MiB on a slow line"),
    _bound("health", HEALTH_CONNECTIONS_MAX, "connections at once that ask how a worker is", "closed at once",
           "a probe comes every few seconds; who floods the port must not take the worker's descriptors"),
    _bound("http_idle", HTTP_IDLE_TIMEOUT, "s", "closed", "kept-alive connections cost descriptors"),
    _bound("memory_pipe", MEMORY_PIPE_BYTES_MAX, "bytes a direction", "send waits", "a socket's buffer"),
    _bound("metadata", METADATA_BYTES_MAX, "bytes", "400 invalid_argument", "the real server's default"),
    _bound("attributes", ATTRIBUTES_BYTES_MAX, "bytes, keys and values", "400 invalid_argument",
           "the real server's default"),
    _bound("room_name", ROOM_NAME_BYTES_MAX, "bytes", "400 invalid_argument", "the real server's default"),
    _bound("participant_name", PARTICIPANT_NAME_BYTES_MAX, "bytes", "400 invalid_argument",
           "the real server's default"),
    _bound("room_empty", ROOM_EMPTY_TIMEOUT, "s, unless chosen", "a room that nobody joined closes",
           "the real server's default"),
    _bound("room_departure", ROOM_DEPARTURE_TIMEOUT, "s, unless chosen", "a room that everybody has left closes",
           "the real server's default"),
    _bound("keepalive", KEEPALIVE_INTERVAL, "s", "the worker's connection gets a WebSocket ping", "the real server's"),
    _bound("accept_pause", ACCEPT_PAUSE, "s", "accepting is tried again",
           "a process that is out of descriptors cannot accept; those who are connected go on"),
    _bound("api", API_TIMEOUT, "s", "ApiError deadline_exceeded",
           "the real server itself gives up on its bus after 3 s"),
    _bound("api_response", API_RESPONSE_BYTES_MAX, "bytes", "ApiError", "a list of all rooms of a busy server"),
    _bound("api_error", API_ERROR_WORDS_MAX, "words beside an error", "the rest is not kept", "a telephone's has four"),
    _bound("sync_request_threads", SYNC_REQUEST_THREADS_MAX, "threads", "the offer waits, then is declined at 2.5 s",
           "AnyIO's own default limiter"),
    _bound("secret_file", SECRET_FILE_BYTES_MAX, "bytes", "ConfigError",
           "a key or secret; a wrong path may name anything"),
    _bound("duration", DURATION_CHARS_MAX, "characters of a duration", "ConfigError",
           "what is longer is no duration, and its numbers take time"),
    _bound("token_ttl", TOKEN_TTL_MAX, "s for which `livekit-agent token` mints one", "error of use",
           "a token says when it expires in whole seconds; one for ever cannot be written"),
    _bound("shown_text", SHOWN_TEXT_BYTES_MAX, "bytes of a message that `livekit-agent join` shows",
           "a line says so, the rest is not read", "a terminal is for people"),
    _bound("demo", DEMO_TIMEOUT, "s", "the demo fails", "it takes three"),
    _bound("printed", PRINTED_CHARS_MAX, "characters of a peer's text in a log or error, unless told",
           "cut with an ellipsis", "one line"),
    _bound("virtual_time", VIRTUAL_TIME_MAX, "virtual s a test, unless chosen", "the test counts as hung",
           "keep-alives go on for ever, so nothing else would end it"),
    _bound("deadlock_lines", DEADLOCK_LINES_MAX, "tasks in a deadlock's report", "the rest is counted",
           "a report is for people"),
    _bound("violation_notes", VIOLATION_NOTES_MAX, "notes in a violation's report", "the latest are shown",
           "a report is for people; the trace has them all"),
    _bound("leaks", LEAKS_KEPT_MAX, "log records that show a secret, a simulation", "the first are kept",
           "one is too many already"),
)
# fmt: on
