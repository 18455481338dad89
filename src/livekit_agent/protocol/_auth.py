"""Tokens: minting and checking LiveKit's HS256 JWTs.

PyJWT signs and checks signatures (its JWS half: claims and times are LiveKit's business, and the core reads no clock;
``wall`` is Unix seconds).
The checks and their wording are those of the real server (v1.13.5), minus its echo of the token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from .._errors import AgentError
from .._types import NO_ATTRIBUTES, JobMetadata, ParticipantPermissions
from ._codec import reads_as_room_config

if TYPE_CHECKING:
    from jwt.api_jws import PyJWS

__all__ = ["Claims", "TokenError", "agent_token", "decode_token", "mint_token", "verify_token", "worker_token"]

#: The server accepts this much clock difference, in seconds.
LEEWAY = 60.0

#: The grants that are yes or no, and those that are names; of what a newer server knows nothing is said.
_SWITCHES = (
    "roomCreate", "roomList", "roomRecord", "roomAdmin", "roomJoin", "canPublish", "canSubscribe", "canPublishData",
    "canUpdateOwnMetadata", "ingressAdmin", "hidden", "recorder", "agent", "canSubscribeMetrics",
    "canManageAgentSession",
)  # fmt: skip
_NAMES = ("room", "destinationRoom")

#: The worker's own token lives this long, in seconds; it is checked once, at the upgrade.
WORKER_TOKEN_TTL = 600.0

#: An assignment's token lives this long, in seconds.
AGENT_TOKEN_TTL = 3600.0


class TokenError(AgentError):
    """A token is not acceptable.  The text never contains it."""

    code = "TOKEN_INVALID"
    default_message = "invalid authorization token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token says."""

    api_key: str
    identity: str = ""
    name: str = ""
    metadata: str = field(default="", repr=False)
    attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    kind: str = ""
    video: Mapping[str, object] = field(default_factory=dict[str, object])
    expires_at: float | None = None
    room_config: Mapping[str, object] | None = field(default=None, repr=False)
    raw: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)

    def grants(self, name: str) -> bool:
        """Whether the video grant ``name`` is literally true."""
        return self.video.get(name) is True


def mint_token(
    api_key: str,
    api_secret: str,
    *,
    wall: float,
    ttl: float = WORKER_TOKEN_TTL,
    video: Mapping[str, object],
    identity: str = "",
    name: str = "",
    metadata: str = "",
    attributes: Mapping[str, str] | None = None,
    kind: str = "",
    room_config: Mapping[str, object] | None = None,
    extra: Mapping[str, object] | None = None,
) -> str:
    """A token signed with ``api_secret``; empty values are omitted, as the server's own tokens do."""
    now = int(wall)
    claims: dict[str, object] = {"iss": api_key, "nbf": now, "exp": now + int(ttl), "video": dict(video)}
    optional: dict[str, object] = {
        "sub": identity,
        "name": name,
        "metadata": metadata,
        "attributes": dict(attributes or {}),
        "kind": kind,
        "roomConfig": dict(room_config or {}),
        **(extra or {}),
    }
    claims.update({key: value for key, value in optional.items() if value})
    return _jws().encode(json.dumps(claims, separators=(",", ":")).encode(), api_secret, algorithm="HS256")


def worker_token(api_key: str, api_secret: str, *, wall: float, ttl: float = WORKER_TOKEN_TTL) -> str:
    """The token with which a worker connects: the agent grant and nothing else."""
    return mint_token(api_key, api_secret, wall=wall, ttl=ttl, video={"agent": True})


def agent_token(
    api_key: str,
    api_secret: str,
    *,
    wall: float,
    room: str,
    metadata: JobMetadata,
    agent_name: str = "",
    permissions: ParticipantPermissions | None = None,
) -> str:
    """The token of a job assignment, claim for claim what the real server mints."""
    allowed = permissions or ParticipantPermissions()
    video: dict[str, object] = {
        "roomJoin": True,
        "agent": True,
        "room": room,
        "canSubscribe": allowed.can_subscribe,
        "canPublish": allowed.can_publish,
        "canPublishData": allowed.can_publish_data,
        "canUpdateOwnMetadata": allowed.can_update_metadata,
        "canSubscribeMetrics": allowed.can_subscribe_metrics,
    }
    if allowed.hidden:
        video["hidden"] = True
    return mint_token(
        api_key,
        api_secret,
        wall=wall,
        ttl=AGENT_TOKEN_TTL,
        video=video,
        identity=metadata.participant_identity,
        name=metadata.participant_name,
        metadata=metadata.participant_metadata,
        attributes={**metadata.participant_attributes, "lk.agent_name": agent_name},
        kind="agent",
        extra={"iat": int(wall), "identity": metadata.participant_identity},
    )


def decode_token(token: str) -> Claims:
    """What a token says, unchecked.  Raises :class:`TokenError` when it is no token at all."""
    from jwt import InvalidTokenError

    try:
        payload = _read(_jws().decode(token, options={"verify_signature": False}))
    except (InvalidTokenError, ValueError, RecursionError):
        raise TokenError("invalid authorization token") from None
    if not isinstance(payload, dict):
        raise TokenError("invalid authorization token")
    return _claims(cast("dict[str, Any]", payload))


def verify_token(token: str, keys: Mapping[str, str], *, wall: float, leeway: float = LEEWAY) -> Claims:
    """What a token says, once its key, signature and times hold.  Raises :class:`TokenError`."""
    from jwt import InvalidTokenError

    claims = decode_token(token)
    secret = keys.get(claims.api_key)
    if secret is None:
        raise TokenError("invalid API key")
    try:
        _jws().decode(token, secret, algorithms=["HS256"])
    except (InvalidTokenError, ValueError) as exc:
        raise TokenError(f"invalid token: {type(exc).__name__}") from None
    if claims.expires_at is None:
        # v1.13.5 accepts such a token for ever; the server's next version and we do not.
        raise TokenError("invalid token: no expiry")
    if wall > claims.expires_at + leeway:
        raise TokenError("invalid token: expired")
    not_before = _number(claims.raw, "nbf")
    if not_before is not None and wall < not_before - leeway:
        raise TokenError("invalid token: not valid yet")
    return claims


@cache
def _jws() -> PyJWS:
    """PyJWT's signer without its warning about short secrets: LiveKit's own development secret has six bytes, and the
    length is the server's decision, not this process's.
    """
    from jwt.algorithms import HMACAlgorithm
    from jwt.api_jws import PyJWS

    class _HS256(HMACAlgorithm):
        def check_key_length(self, key: object) -> str | None:
            return None

    jws = PyJWS(algorithms=["HS256"])
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", _HS256(HMACAlgorithm.SHA256))
    return jws


def _read(payload: bytes) -> object:
    """JSON.  Half a character, which it can write and nothing else can, is U+FFFD, as the real server reads it."""
    value = json.loads(payload)
    if b"\\u" not in payload:
        return value
    text = json.dumps(value, ensure_ascii=False)
    read = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if isinstance(value, dict) and value.get("roomConfig") != read.get("roomConfig"):  # pyright: ignore[reportUnknownMemberType]
        raise TokenError("invalid token: claim 'roomConfig' is no room configuration")  # protobuf's JSON has no mercy
    return read


def _number(payload: Mapping[str, object], key: str) -> float | None:
    value = payload.get(key)
    if value is None:
        return None
    try:
        # JSON knows integers beyond any float, and Python's knows NaN, which no time is ever after.
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise TokenError(f"invalid token: claim {key!r} is not a time")
    return number


def _claims(payload: Mapping[str, Any]) -> Claims:
    def text(key: str) -> str:
        value = payload.get(key, "")
        if value is None:
            return ""
        if not isinstance(value, str):
            raise TokenError(f"invalid token: claim {key!r} is not text")
        return value

    def mapping(key: str) -> dict[str, object]:
        value = payload.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise TokenError(f"invalid token: claim {key!r} is not an object")
        return cast("dict[str, object]", value)

    attributes = {key: "" if value is None else value for key, value in mapping("attributes").items()}
    if not all(isinstance(v, str) for v in attributes.values()):
        raise TokenError("invalid token: attributes are not text")
    room_config = mapping("roomConfig")
    if room_config and not reads_as_room_config(room_config):
        raise TokenError("invalid token: claim 'roomConfig' is no room configuration")
    text("roomPreset")
    text("sha256")
    return Claims(
        api_key=text("iss"),
        identity=text("sub") or text("jti"),
        name=text("name"),
        metadata=text("metadata"),
        attributes=cast("dict[str, str]", attributes),
        kind=text("kind"),
        video=_checked_grants(mapping("video")),
        expires_at=_number(payload, "exp"),
        room_config=room_config or None,
        raw=payload,
    )


def _checked_grants(video: dict[str, object]) -> dict[str, object]:
    """The video grant, once every grant is of its type; null is nothing said."""

    def fits(name: str, value: object) -> bool:
        if name in _SWITCHES:
            return isinstance(value, bool)
        if name in _NAMES:
            return isinstance(value, str)
        if name == "canPublishSources":
            sources = cast("list[object]", value) if isinstance(value, list) else [None]
            return all(isinstance(source, str) for source in sources)
        return True

    for name, value in video.items():
        if value is not None and not fits(name, value):
            raise TokenError(f"invalid token: grant {name!r} is of the wrong type")
    return video
