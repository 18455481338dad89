"""The state machines of the signalling conversation, as tables.

Theory of operation
===================

Two kinds of machine exist.

*One conversation per connection* (``CONVERSATION``).  It is the state of what has been said on the wire, not of either
end, so worker and server walk the same table; this file does not know which role we play.  Who may say what is in
``SPEAKER``: a message kind has one speaker, except the end of the stream, which nobody says.  A kind that is absent
from a state's row is illegal there.  Whose fault that is follows from the speaker: ours is a LocalProtocolError and
nothing is sent; theirs is a RemoteProtocolError and the connection ends.

*One machine per job* (``JOB``).  It lives in the JobBook (``_jobs.py``) and survives connections, because rooms and
handlers do not depend on the worker's socket.  A server keeps one book per connection, since a real server forgets.

How they couple:

- Job inputs arrive only while the conversation is REGISTERED, with two exceptions: END (a handler finishes whenever it
  finishes; the status waits for the next registration) and LOST (fed to every job when a connection ends).
- LOST ends what the server alone had promised: an offer or an accepted offer.  It leaves assigned jobs alone.
- A job input that is absent from a state's row is never an error of the peer: late, duplicate and unknown job messages
  are normal on this protocol (the real server ignores them too).  They are skipped and reported as such.  From our own
  side (a verb) it is a LocalProtocolError.

Who wins a conflict: the first input that reaches a final state.  A termination and a handler's end in the same instant
both lead to exactly one END, because ENDED accepts nothing but RESEND, the identical status again.

What is *not* in the tables: payload checks (``_codec.py``), bounds (``_bounds.py``), capacity (``JobBook``), time
(``_timers.py``; a timer that fires becomes an input here).

docs/design/state-machines.md is drawn from these tables by ``docs/design/draw_states.py``; a test keeps it true.
"""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["CONVERSATION", "JOB", "SPEAKER", "Input", "JobStage", "Kind", "Role", "Stage", "Word"]


class Word(Enum):
    """Base of the words that the tables are made of.

    A member is one object for ever, so its identity is its hash; Enum's own is a call of Python code for every look
    into a table, and each message makes a dozen.
    """

    __hash__ = object.__hash__


class Role(Word):
    """Which end of the conversation we are."""

    WORKER = "worker"
    SERVER = "server"


class Stage(Word):
    """How far a conversation has come."""

    IDLE = auto()
    """A stream, nothing said."""
    UPGRADING = auto()
    """The worker asked to speak WebSocket."""
    OPEN = auto()
    """WebSocket is spoken; the worker is nobody yet."""
    REGISTERING = auto()
    """The worker introduced itself."""
    REGISTERED = auto()
    """The server took it on: jobs flow."""
    WORKER_CLOSING = auto()
    """The worker sent its Close; the server's words no longer count."""
    SERVER_CLOSING = auto()
    """The server sent its Close; the worker's words no longer count."""
    CLOSED = auto()
    """Over."""


class Kind(Word):
    """Everything that can be said, and the stream's end."""

    UPGRADE_REQUEST = auto()
    UPGRADE_ACCEPTED = auto()
    UPGRADE_REFUSED = auto()
    REGISTER = auto()
    REGISTERED = auto()
    OFFER = auto()
    ANSWER = auto()
    ASSIGNMENT = auto()
    TERMINATION = auto()
    JOB_STATUS = auto()
    WORKER_STATUS = auto()
    PING = auto()
    PONG = auto()
    MIGRATE = auto()
    SIMULATE = auto()
    GO_AWAY = auto()
    WORKER_CLOSE = auto()
    SERVER_CLOSE = auto()
    LOST = auto()
    """The stream ended, or one side gave up on it.  Nobody says this."""


_WORKER_SAYS = (
    Kind.UPGRADE_REQUEST, Kind.REGISTER, Kind.ANSWER, Kind.JOB_STATUS, Kind.WORKER_STATUS,
    Kind.PING, Kind.MIGRATE, Kind.SIMULATE, Kind.WORKER_CLOSE,
)  # fmt: skip
_SERVER_SAYS = (
    Kind.UPGRADE_ACCEPTED, Kind.UPGRADE_REFUSED, Kind.REGISTERED, Kind.OFFER, Kind.ASSIGNMENT,
    Kind.TERMINATION, Kind.PONG, Kind.GO_AWAY, Kind.SERVER_CLOSE,
)  # fmt: skip

SPEAKER: dict[Kind, Role] = {
    **dict.fromkeys(_WORKER_SAYS, Role.WORKER),
    **dict.fromkeys(_SERVER_SAYS, Role.SERVER),
}

CONVERSATION: dict[Stage, dict[Kind, Stage]] = {
    Stage.IDLE: {
        Kind.UPGRADE_REQUEST: Stage.UPGRADING,
        Kind.LOST: Stage.CLOSED,
    },
    Stage.UPGRADING: {
        Kind.UPGRADE_ACCEPTED: Stage.OPEN,
        Kind.UPGRADE_REFUSED: Stage.CLOSED,
        Kind.LOST: Stage.CLOSED,
    },
    Stage.OPEN: {
        Kind.REGISTER: Stage.REGISTERING,
        Kind.PING: Stage.OPEN,
        Kind.PONG: Stage.OPEN,
        Kind.WORKER_CLOSE: Stage.WORKER_CLOSING,
        Kind.SERVER_CLOSE: Stage.SERVER_CLOSING,
        Kind.LOST: Stage.CLOSED,
    },
    Stage.REGISTERING: {
        Kind.REGISTERED: Stage.REGISTERED,
        Kind.PING: Stage.REGISTERING,
        Kind.PONG: Stage.REGISTERING,
        Kind.WORKER_CLOSE: Stage.WORKER_CLOSING,
        Kind.SERVER_CLOSE: Stage.SERVER_CLOSING,
        Kind.LOST: Stage.CLOSED,
    },
    Stage.REGISTERED: {
        # Said twice, a register response changes nothing (a second *request* is fatal: it is not in this row).
        Kind.REGISTERED: Stage.REGISTERED,
        Kind.OFFER: Stage.REGISTERED,
        Kind.ANSWER: Stage.REGISTERED,
        Kind.ASSIGNMENT: Stage.REGISTERED,
        Kind.TERMINATION: Stage.REGISTERED,
        Kind.JOB_STATUS: Stage.REGISTERED,
        Kind.WORKER_STATUS: Stage.REGISTERED,
        Kind.PING: Stage.REGISTERED,
        Kind.PONG: Stage.REGISTERED,
        Kind.MIGRATE: Stage.REGISTERED,
        Kind.SIMULATE: Stage.REGISTERED,
        Kind.GO_AWAY: Stage.REGISTERED,
        Kind.WORKER_CLOSE: Stage.WORKER_CLOSING,
        Kind.SERVER_CLOSE: Stage.SERVER_CLOSING,
        Kind.LOST: Stage.CLOSED,
    },
    # What was in flight when a Close crossed it is legal and unheard; the closer itself says nothing more.
    Stage.WORKER_CLOSING: {
        Kind.REGISTERED: Stage.WORKER_CLOSING,
        Kind.OFFER: Stage.WORKER_CLOSING,
        Kind.ASSIGNMENT: Stage.WORKER_CLOSING,
        Kind.TERMINATION: Stage.WORKER_CLOSING,
        Kind.PONG: Stage.WORKER_CLOSING,
        Kind.GO_AWAY: Stage.WORKER_CLOSING,
        Kind.SERVER_CLOSE: Stage.CLOSED,
        Kind.LOST: Stage.CLOSED,
    },
    Stage.SERVER_CLOSING: {
        Kind.REGISTER: Stage.SERVER_CLOSING,
        Kind.ANSWER: Stage.SERVER_CLOSING,
        Kind.JOB_STATUS: Stage.SERVER_CLOSING,
        Kind.WORKER_STATUS: Stage.SERVER_CLOSING,
        Kind.PING: Stage.SERVER_CLOSING,
        Kind.MIGRATE: Stage.SERVER_CLOSING,
        Kind.SIMULATE: Stage.SERVER_CLOSING,
        Kind.WORKER_CLOSE: Stage.CLOSED,
        Kind.LOST: Stage.CLOSED,
    },
    Stage.CLOSED: {},
}


class JobStage(Word):
    """How far a job has come."""

    OFFERED = auto()
    """The server asked; the answer is open."""
    ACCEPTED = auto()
    """The worker said yes and holds a place for it."""
    DECLINED = auto()
    """The worker said no, or nothing in time."""
    LAPSED = auto()
    """A yes that came to nothing: no assignment in time, or the connection went."""
    ASSIGNED = auto()
    """It is the worker's; the room is being joined."""
    RUNNING = auto()
    """The worker said so."""
    TERMINATING = auto()
    """The server wants it to end."""
    ENDED = auto()
    """Its one final status is decided."""


class Input(Word):
    """What can happen to a job."""

    ACCEPT = auto()
    DECLINE = auto()
    EXPIRE = auto()
    """Its timer fired: no answer, or no assignment."""
    LOST = auto()
    """The connection that it was offered on ended."""
    ASSIGN = auto()
    RUN = auto()
    TERMINATE = auto()
    END = auto()
    RESEND = auto()
    """The identical final status again, for a server that may not have it."""


JOB: dict[JobStage, dict[Input, JobStage]] = {
    JobStage.OFFERED: {
        Input.ACCEPT: JobStage.ACCEPTED,
        Input.DECLINE: JobStage.DECLINED,
        Input.EXPIRE: JobStage.DECLINED,
        Input.LOST: JobStage.LAPSED,
    },
    JobStage.ACCEPTED: {
        Input.ASSIGN: JobStage.ASSIGNED,
        Input.EXPIRE: JobStage.LAPSED,
        Input.LOST: JobStage.LAPSED,
    },
    JobStage.DECLINED: {},
    JobStage.LAPSED: {},
    JobStage.ASSIGNED: {
        Input.RUN: JobStage.RUNNING,
        Input.TERMINATE: JobStage.TERMINATING,
        Input.END: JobStage.ENDED,
    },
    JobStage.RUNNING: {
        Input.TERMINATE: JobStage.TERMINATING,
        Input.END: JobStage.ENDED,
    },
    JobStage.TERMINATING: {
        Input.END: JobStage.ENDED,
    },
    JobStage.ENDED: {
        Input.RESEND: JobStage.ENDED,
    },
}
