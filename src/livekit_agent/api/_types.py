"""What the API gives back: frozen values, no wire types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .._types import NO_ATTRIBUTES, JobState, JobType

__all__ = ["Dispatch", "DispatchedJob", "RoomAgent", "SipCall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomAgent:
    """An agent to dispatch to a room when the room is created."""

    agent_name: str = ""
    metadata: str = field(default="", repr=False)
    deployment: str = ""
    attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchedJob:
    """A job of a dispatch, as it was when a worker took it (an open-source server does not update it here)."""

    id: str
    type: JobType | int
    participant: str = ""
    """Identity of the participant the job is about; empty for a room job."""
    state: JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """A standing order for an agent in a room."""

    id: str
    room: str
    agent_name: str = ""
    metadata: str = field(default="", repr=False)
    deployment: str = ""
    attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    created_at: datetime | None = None
    jobs: tuple[DispatchedJob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCall:
    """A telephone call that was made into a room."""

    call_id: str
    """LiveKit's id of the call, ``SCL_…``; the participant's ``sip.call_id``."""
    room: str
    participant_identity: str
    participant_id: str
