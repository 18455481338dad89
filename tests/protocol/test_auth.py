"""Tokens: what is minted, byte for byte beside another library's, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_agent._types import JobMetadata, ParticipantPermissions
from livekit_agent.protocol import (
    Claims,
    TokenError,
    agent_token,
    decode_token,
    mint_token,
    verify_token,
    worker_token,
)

from .pair import WALL

KEY, SECRET = "APIkey", "a-secret-of-32-bytes-or-a-little-more"
KEYS = {KEY: SECRET}


def parts(token: str) -> tuple[dict[str, object], dict[str, object]]:
    """Header and payload, unchecked."""
    head, body, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(p + "=" * (-len(p) % 4))) for p in (head, body))  # type: ignore[return-value]


def signed(payload: object, *, header: dict[str, object] | None = None, secret: str = SECRET) -> str:
    """A token made by hand."""

    def b64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = b64(json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode()) + "." + b64(raw)
    return text + "." + b64(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())


def claims(**more: object) -> dict[str, object]:
    return {"iss": KEY, "nbf": WALL, "exp": WALL + 600, "video": {"agent": True}, **more}


# ------------------------------------------------------------------------------------ minting


def test_case_3_and_5_a_worker_s_token_holds_the_agent_grant_and_nothing_else() -> None:
    head, body = parts(worker_token(KEY, SECRET, wall=WALL + 0.9))
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert body == {"iss": KEY, "nbf": int(WALL), "exp": int(WALL) + 600, "video": {"agent": True}}


def test_case_4_a_token_made_later_expires_later() -> None:
    first, second = (worker_token(KEY, SECRET, wall=WALL + hour * 3600) for hour in (0, 1))
    assert first != second
    assert parts(second)[1]["exp"] == int(WALL) + 3600 + 600


def test_an_assignment_s_token_is_the_real_server_s_claim_for_claim() -> None:
    metadata = JobMetadata(
        participant_identity="agent-AJ_1",
        participant_name="n",
        participant_metadata="m",
        participant_attributes={"k": "v", "lk.agent_name": "mine"},
    )
    permissions = ParticipantPermissions(can_publish=False, hidden=True, recorder=True, can_publish_sources=(1,))
    token = agent_token(KEY, SECRET, wall=WALL, room="r", metadata=metadata, agent_name="a", permissions=permissions)
    assert parts(token) == (
        {"alg": "HS256", "typ": "JWT"},
        {
            "iss": KEY,
            "sub": "agent-AJ_1",
            "identity": "agent-AJ_1",
            "nbf": int(WALL),
            "iat": int(WALL),
            "exp": int(WALL) + 3600,
            "name": "n",
            "metadata": "m",
            "kind": "agent",
            "attributes": {"k": "v", "lk.agent_name": "a"},
            "video": {
                "roomJoin": True,
                "agent": True,
                "room": "r",
                "canSubscribe": True,
                "canPublish": False,
                "canPublishData": True,
                "canUpdateOwnMetadata": True,
                "canSubscribeMetrics": False,
                "hidden": True,
            },
        },
    )


def test_empty_values_are_left_out_but_the_agent_s_name_is_always_there() -> None:
    body = parts(agent_token(KEY, SECRET, wall=WALL, room="r", metadata=JobMetadata()))[1]
    assert set(body) == {"iss", "nbf", "iat", "exp", "kind", "attributes", "video"}
    assert body["attributes"] == {"lk.agent_name": ""}
    assert "hidden" not in body["video"]  # type: ignore[operator]


def test_tokens_equal_those_of_livekit_s_own_library() -> None:
    api = pytest.importorskip("livekit.api")
    theirs = (
        api.AccessToken(KEY, SECRET)
        .with_identity("me")
        .with_name("n\u00e4me")
        .with_metadata("m\u2028\U0001f600")
        .with_attributes({"k": "v", "z": "\x00"})
        .with_kind("agent")
        .with_ttl(timedelta(seconds=600))
        .with_grants(api.VideoGrants(room_join=True, room="r", agent=True, can_publish_sources=["camera"]))
        .to_jwt()
    )
    head, body = parts(theirs)
    ours = mint_token(
        KEY,
        SECRET,
        wall=float(body["nbf"]),  # type: ignore[arg-type]
        video=body["video"],  # type: ignore[arg-type]
        identity="me",
        name="n\u00e4me",
        metadata="m\u2028\U0001f600",
        attributes={"k": "v", "z": "\x00"},
        kind="agent",
    )
    assert parts(ours) == (head, body)


def test_livekit_s_own_library_reads_our_tokens_and_we_read_its() -> None:
    api = pytest.importorskip("livekit.api")
    import time

    now = time.time()
    grants = {"roomJoin": True, "room": "r", "canPublish": False}
    ours = mint_token(KEY, SECRET, wall=now, video=grants, identity="me", attributes={"a": "b"}, kind="agent")
    seen = api.TokenVerifier(KEY, SECRET).verify(ours)
    assert (seen.identity, seen.kind, seen.attributes) == ("me", "agent", {"a": "b"})
    assert (seen.video.room_join, seen.video.room, seen.video.can_publish) == (True, "r", False)

    theirs = (
        api.AccessToken(KEY, SECRET)
        .with_identity("me")
        .with_attributes({"a": "b"})
        .with_grants(api.VideoGrants(agent=True, room_admin=True, room="r"))
        .with_room_config(api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="x")]))
        .to_jwt()
    )
    read = verify_token(theirs, KEYS, wall=now)
    assert (read.api_key, read.identity, dict(read.attributes)) == (KEY, "me", {"a": "b"})
    assert read.grants("agent")
    assert read.grants("roomAdmin")
    assert not read.grants("roomCreate")
    assert read.room_config is not None
    assert read.room_config["agents"] == [{"agentName": "x"}]


# ------------------------------------------------------------------------------------ checking


@pytest.mark.parametrize(
    ("wall", "fine"),
    [(WALL - 61, False), (WALL - 60, True), (WALL, True), (WALL + 660, True), (WALL + 660.5, False)],
)
def test_a_minute_of_clock_difference_is_forgiven(wall: float, fine: bool) -> None:
    token = worker_token(KEY, SECRET, wall=WALL)
    if fine:
        assert verify_token(token, KEYS, wall=wall).expires_at == WALL + 600
    else:
        with pytest.raises(TokenError):
            verify_token(token, KEYS, wall=wall)


GOOD = signed(claims())
REFUSED = {
    "no token": ("", "invalid authorization token"),
    "one part": ("abc", "invalid authorization token"),
    "not base64": ("a.b.c", "invalid authorization token"),
    "not ASCII": ("\u20ac.\u20ac.\u20ac", "invalid authorization token"),
    "surrogate": ("\ud800.a.b", "invalid authorization token"),
    "payload no JSON": (signed(b"nonsense"), "invalid authorization token"),
    "payload not UTF-8": (signed(b"\xff\xfe"), "invalid authorization token"),
    "payload a list": (signed([]), "invalid authorization token"),
    "payload null": (signed(None), "invalid authorization token"),
    "payload very deep": (signed(b"[" * 100_000), "invalid authorization token"),
    "payload a huge number": (signed(b'{"exp":' + b"9" * 6000 + b"}"), "invalid authorization token"),
    "unknown key": (signed(claims(iss="other")), "invalid API key"),
    "no key": (signed({"exp": WALL + 1}), "invalid API key"),
    "wrong secret": (signed(claims(), secret="x"), "invalid token: InvalidSignatureError"),
    "no signature": (GOOD.rpartition(".")[0] + ".", "invalid token"),
    "cut": (GOOD[:-2], "invalid"),
    "alg none": (signed(claims(), header={"alg": "none", "typ": "JWT"}), "invalid token"),
    "alg NONE": (signed(claims(), header={"alg": "NONE"}), "invalid token"),
    "alg HS512": (signed(claims(), header={"alg": "HS512"}), "invalid token"),
    "alg RS256": (signed(claims(), header={"alg": "RS256"}), "invalid token"),
    "alg a list": (signed(claims(), header={"alg": ["HS256"]}), "invalid"),
    "no alg": (signed(claims(), header={"typ": "JWT"}), "invalid token"),
    "critical extension": (signed(claims(), header={"alg": "HS256", "crit": ["b64"], "b64": False}), "invalid"),
    "kid a number": (signed(claims(), header={"alg": "HS256", "kid": 5}), "invalid"),
    "expired": (signed(claims(exp=WALL - 100)), "invalid token: expired"),
    "not yet": (signed(claims(nbf=WALL + 100)), "invalid token: not valid yet"),
    "no expiry": (signed({"iss": KEY, "video": {"agent": True}}), "invalid token: no expiry"),
    "exp text": (signed(claims(exp="never")), "invalid token: claim 'exp'"),
    "exp true": (signed(claims(exp=True)), "invalid token: claim 'exp'"),
    "exp beyond float": (signed(claims(exp=10**400)), "invalid token: claim 'exp'"),
    "exp infinite": (signed(b'{"iss":"APIkey","exp":1e999}'), "invalid token: claim 'exp'"),
    "exp NaN": (signed(b'{"iss":"APIkey","exp":NaN}'), "invalid token: claim 'exp'"),
    "nbf beyond float": (signed(claims(nbf=10**400)), "invalid token: claim 'nbf'"),
    "nbf text": (signed(claims(nbf="now")), "invalid token: claim 'nbf'"),
    "iss a number": (signed(claims(iss=5)), "invalid token: claim 'iss'"),
    "video a list": (signed(claims(video=[])), "invalid token: claim 'video'"),
    "attributes of numbers": (signed(claims(attributes={"a": 1})), "invalid token: attributes"),
    "a grant that is text": (signed(claims(video={"agent": "true"})), "invalid token: grant 'agent'"),
    "a grant that is a number": (signed(claims(video={"canPublish": 1})), "invalid token: grant 'canPublish'"),
    "a room that is a number": (signed(claims(video={"room": 5})), "invalid token: grant 'room'"),
    "sources that are text": (signed(claims(video={"canPublishSources": "camera"})), "invalid token: grant 'canPub"),
    "sources of lists": (signed(claims(video={"canPublishSources": [["camera"]]})), "invalid token: grant 'canPub"),
    "sources of numbers": (signed(claims(video={"canPublishSources": [1]})), "invalid token: grant 'canPublishS"),
    "a preset that is a number": (signed(claims(roomPreset=5)), "invalid token: claim 'roomPreset'"),
    "a room config of agents that are none": (
        signed(claims(roomConfig={"agents": [5]})),
        "invalid token: claim 'roomConfig' is no room configuration",
    ),
    "a room config without an agents list": (
        signed(claims(roomConfig={"agents": 5})),
        "invalid token: claim 'roomConfig' is no room configuration",
    ),
    "a room config with numbers for text": (
        signed(claims(roomConfig={"agents": [{"agentName": 5}]})),
        "invalid token: claim 'roomConfig' is no room",
    ),
    "a room config with half a character": (
        signed(claims(roomConfig={"metadata": "\ud800"})),
        "invalid token: claim 'roomConfig' is no room",
    ),
    "a room config with a name of half a character": (
        signed(claims(roomConfig={"\ud800": 1})),
        "invalid token: claim 'roomConfig' is no room configuration",
    ),
    "a room config out of range": (
        signed(claims(roomConfig={"emptyTimeout": -1})),
        "invalid token: claim 'roomConfig' is no room configuration",
    ),
}


@pytest.mark.parametrize(("token", "text"), REFUSED.values(), ids=REFUSED)
def test_a_bad_token_is_one_typed_error_that_does_not_quote_it(token: str, text: str) -> None:
    with pytest.raises(TokenError) as caught:
        verify_token(token, KEYS, wall=WALL)
    assert str(caught.value).startswith(text)
    assert SECRET not in str(caught.value)
    assert not token or token not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_good_token_made_by_hand_is_read() -> None:
    read = verify_token(signed(claims(sub="me", jti="other", kind="agent", custom=[1])), KEYS, wall=WALL)
    assert isinstance(read, Claims)
    assert (read.identity, read.kind, read.raw["custom"]) == ("me", "agent", [1])
    assert verify_token(signed(claims(jti="other")), KEYS, wall=WALL).identity == "other"
    assert verify_token(signed(claims(sub=None, video=None)), KEYS, wall=WALL).video == {}


def test_what_is_null_or_of_the_future_is_not_there() -> None:
    grants = {"roomJoin": True, "room": None, "canPublish": None, "canPublishSources": None, "later": [1]}
    config = {"emptyTimeout": "30", "later": {"a": 1}}
    read = decode_token(signed(claims(video=grants, roomConfig=config, attributes={"a": None}, roomPreset=None)))
    assert (read.grants("roomJoin"), dict(read.attributes)) == (True, {"a": ""})
    assert read.room_config == config


def test_only_a_literal_true_is_a_grant() -> None:
    for value in (False, None):
        assert not decode_token(signed(claims(video={"agent": value}))).grants("agent")
    assert not decode_token(signed(claims(video={"Agent": True, "later": "yes"}))).grants("agent")
    assert decode_token(signed(claims())).grants("agent")


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_a_token_error(text: str) -> None:
    with pytest.raises(TokenError):
        verify_token(text, KEYS, wall=WALL)


CLAIMS = st.sampled_from(["iss", "exp", "nbf", "video", "attributes", "sub", "kind", "roomConfig"])
PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CLAIMS, inner, max_size=5),
    max_leaves=8,
)


@given(PAYLOADS)
def test_any_signed_payload_is_read_or_a_token_error(payload: object) -> None:
    token = signed({**payload, "iss": KEY} if isinstance(payload, dict) else payload)
    with contextlib.suppress(TokenError):
        verify_token(token, KEYS, wall=WALL)


@given(
    identity=st.text(max_size=20),
    attributes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    metadata=st.text(max_size=20),
)
def test_what_is_minted_is_read_back(identity: str, attributes: dict[str, str], metadata: str) -> None:
    token = mint_token(
        KEY, SECRET, wall=WALL, video={"room": "r"}, identity=identity, attributes=attributes, metadata=metadata
    )
    read = verify_token(token, KEYS, wall=WALL)
    assert (read.identity, dict(read.attributes), read.metadata) == (identity, attributes, metadata)


def test_half_a_character_is_read_as_the_real_server_reads_it() -> None:
    video = {"agent": True, "room": "\ud800r"}
    attributes = {"\udc00": "a\ud83d", "whole": "\U0001f600é"}
    token = mint_token(KEY, SECRET, wall=WALL, video=video, identity="\ud83d\ude00", attributes=attributes)
    claims = verify_token(token, {KEY: SECRET}, wall=WALL)
    assert (claims.identity, claims.video) == ("\U0001f600", {"agent": True, "room": "\ufffdr"})
    assert claims.attributes == {"\ufffd": "a\ufffd", "whole": "\U0001f600é"}


def test_a_development_secret_of_six_bytes_works_without_a_warning() -> None:
    token = worker_token("devkey", "secret", wall=WALL)
    assert verify_token(token, {"devkey": "secret"}, wall=WALL).grants("agent")


def test_claims_hide_what_a_participant_might_keep_secret() -> None:
    shown = repr(decode_token(signed(claims(metadata="hidden-1", attributes={"a": "hidden-2"}))))
    assert "hidden" not in shown
