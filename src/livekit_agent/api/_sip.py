"""SIPService: a telephone into a room, and on to somebody else.

LiveKit Cloud has the service; an open-source server needs livekit-sip beside it and says so otherwise; an embedded one
has none.  What a call says of itself afterwards is ``participant.sip``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from livekit.protocol import sip as sip_pb

from .._bounds import API_TIMEOUT
from .._errors import ApiError, printable
from ._types import SipCall

if TYPE_CHECKING:
    from ._client import LiveKitAPI

__all__ = ["SipApi"]

_SERVICE = "SIP"
_MAY_CALL = {"call": True}


class SipApi:
    """``api.sip``.  Phone numbers are in no error text of ours."""

    def __init__(self, api: LiveKitAPI) -> None:
        self._api = api

    async def create_participant(
        self,
        room: str,
        trunk_id: str,
        call_to: str,
        *,
        identity: str = "",
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        from_number: str = "",
        headers: Mapping[str, str] | None = None,
        dtmf: str = "",
        play_dialtone: bool = False,
        krisp: bool = False,
        wait_until_answered: bool = False,
        ringing_timeout: float = 30.0,
        max_call_duration: float | None = None,
    ) -> SipCall:
        """Call a telephone, which is in the room as a participant from then on.

        ``call_to``: a number (``+15551234567``) or ``sip:user@host``; ``trunk_id``: an outbound trunk, ``ST_…``;
        ``from_number``: which of its numbers calls; ``dtmf``: keys to press when it is answered.  Returns when the
        call is being made, or, with ``wait_until_answered``, when somebody has answered.  Times are seconds.

        ApiError for a call that is not made, and of one that was to be answered and is not: ``error.meta`` has its
        ``sip_status_code`` (``486`` is busy).
        """
        request = sip_pb.CreateSIPParticipantRequest(
            room_name=room,
            sip_trunk_id=trunk_id,
            sip_call_to=call_to,
            sip_number=from_number,
            participant_identity=identity,
            participant_name=name,
            participant_metadata=metadata,
            participant_attributes=attributes or {},
            headers=headers or {},
            dtmf=dtmf,
            play_dialtone=play_dialtone,
            krisp_enabled=krisp,
            wait_until_answered=wait_until_answered,
        )
        request.ringing_timeout.FromNanoseconds(_nanoseconds(ringing_timeout))
        if max_call_duration is not None:
            request.max_call_duration.FromNanoseconds(_nanoseconds(max_call_duration))
        # A call that is to be answered must outlast the ringing.
        timeout = ringing_timeout + API_TIMEOUT if wait_until_answered else None
        answer = await self._api.call(
            _SERVICE, "CreateSIPParticipant", request, sip_pb.SIPParticipantInfo, {}, sip=_MAY_CALL, timeout=timeout
        )
        return SipCall(
            call_id=answer.sip_call_id,
            room=answer.room_name,
            participant_identity=answer.participant_identity,
            participant_id=answer.participant_id,
        )

    async def transfer_participant(
        self,
        room: str,
        identity: str,
        transfer_to: str,
        *,
        headers: Mapping[str, str] | None = None,
        play_dialtone: bool = False,
        ringing_timeout: float = 30.0,
    ) -> None:
        """Hand a telephone that is in the room on, to ``tel:+15551234567`` or ``sip:user@host``; it leaves the room.

        Returns when the other side has taken it.  ApiError otherwise, as of :meth:`create_participant`.
        """
        request = sip_pb.TransferSIPParticipantRequest(
            room_name=room,
            participant_identity=identity,
            transfer_to=transfer_to,
            headers=headers or {},
            play_dialtone=play_dialtone,
        )
        request.ringing_timeout.FromNanoseconds(_nanoseconds(ringing_timeout))
        answer = await self._api.call(
            _SERVICE,
            "TransferSIPParticipant",
            request,
            sip_pb.TransferSIPParticipantResponse,
            {"roomAdmin": True, "room": room},
            sip=_MAY_CALL,
            timeout=ringing_timeout + API_TIMEOUT,
        )
        # Older servers answer with an empty message; newer ones may say here that it came to nothing.
        if answer.status == sip_pb.SIPTransferStatus.STS_TRANSFER_FAILED:
            code, text = answer.sip_status.code, printable(answer.sip_status.status, 200)
            raise ApiError(
                f"SIP.TransferSIPParticipant: the transfer failed{f': {text}' if text else ''}",
                status=200,
                meta={"sip_status_code": str(int(code)), "sip_status": text} if code else {},
            )


def _nanoseconds(seconds: float) -> int:
    if not 0 <= seconds < math.inf:  # NaN as well
        raise ValueError("expected seconds, 0 or more")
    return round(seconds * 1e9)
