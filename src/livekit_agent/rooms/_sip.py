"""What a telephone in the room says of itself: LiveKit's ``sip.`` attributes, typed.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .._types import NO_ATTRIBUTES

__all__ = ["SipCallStatus", "SipInfo"]

_PREFIX = "sip."
_HEADER = "sip.h."


class SipCallStatus(StrEnum):
    """How far a call is."""

    DIALING = "dialing"
    """Called by LiveKit; not ringing yet."""
    RINGING = "ringing"
    AUTOMATION = "automation"
    """Answered; digits are being dialled."""
    ACTIVE = "active"
    """The two can talk."""
    HANGUP = "hangup"


@dataclass(frozen=True, slots=True, kw_only=True)
class SipInfo:
    """A telephone call.  What LiveKit or the trunk does not say is ``""``.

    Phone numbers are personal data and not in the ``repr``.
    """

    call_id: str = ""
    """LiveKit's id of the call, ``SCL_…``."""
    call_id_full: str = ""
    """The SIP ``Call-ID``, by which the provider knows it."""
    call_status: SipCallStatus | str = ""
    """A status that this version does not know is plain text."""
    phone_number: str = field(default="", repr=False)
    """The other side's number."""
    trunk_phone_number: str = field(default="", repr=False)
    """Our own number."""
    trunk_id: str = ""
    rule_id: str = ""
    """The dispatch rule that brought the call into the room; calls made by LiveKit have none."""
    host: str = ""
    """The other side's SIP host."""
    headers: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    """SIP headers that the trunk maps, by their names in lower case."""
    other: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    """Every other ``sip.`` attribute, without the prefix (``twilio.callSid``, an application's own)."""

    @property
    def is_active(self) -> bool:
        """Whether the two can talk."""
        return self.call_status == SipCallStatus.ACTIVE

    @classmethod
    def of(cls, attributes: Mapping[str, str]) -> SipInfo | None:
        """From a participant's attributes; None if none of them is about a call."""
        said = {key: value for key, value in attributes.items() if key.startswith(_PREFIX)}
        if not said:
            return None
        fields = {name: said.pop(key, "") for key, name in _FIELDS.items()}
        headers = {key.removeprefix(_HEADER).lower(): value for key, value in said.items() if key.startswith(_HEADER)}
        other = {key.removeprefix(_PREFIX): value for key, value in said.items() if not key.startswith(_HEADER)}
        status: SipCallStatus | str = fields.pop("call_status")
        if status in _STATUSES:
            status = SipCallStatus(status)
        return cls(call_status=status, headers=headers, other=other, **fields)


_FIELDS = {
    "sip.callID": "call_id",
    "sip.callIDFull": "call_id_full",
    "sip.callStatus": "call_status",
    "sip.phoneNumber": "phone_number",
    "sip.trunkPhoneNumber": "trunk_phone_number",
    "sip.trunkID": "trunk_id",
    "sip.ruleID": "rule_id",
    "sip.hostname": "host",
}
_STATUSES = frozenset(SipCallStatus)
