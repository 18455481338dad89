"""What the HTTP side answers: recorded from livekit-server v1.13.5, one row per request.

The same rows are asked of the embedded server and, where there is one, of the real one; ``embedded`` is what the
embedded one answers where it differs on purpose (docs/dispatch-server.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from livekit_agent.protocol import mint_token

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"

JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/protobuf"}
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
PLAIN = "text/plain; charset=utf-8"
NOT_FOUND = (404, "404 page not found\n")
DENIED = (401, {"code": "unauthenticated", "msg": "permissions denied"})


# The rows are made when this module is loaded and used when their turn comes: their tokens live for a day.
_DAY = 86_400.0


def token(**video: object) -> str:
    return mint_token(KEY, SECRET, wall=time.time(), ttl=_DAY, video=video)


def bearer(*, secret: str = SECRET, key: str = KEY, age: float = 0.0, **video: object) -> dict[str, str]:
    return {"Authorization": "Bearer " + mint_token(key, secret, wall=time.time() - age, ttl=_DAY, video=video)}


def claiming(video: Mapping[str, object] | None = None, **claims: object) -> dict[str, str]:
    grants = {"roomList": True, **(video or {})}
    token = mint_token(KEY, SECRET, wall=time.time(), ttl=_DAY, video=grants, extra=claims)
    return {"Authorization": "Bearer " + token}


#: What is looked at of a token at the door, whoever may do what: name, status and claims.
CLAIMS: list[tuple[str, int, dict[str, object]]] = [
    ("a grant that is text", 401, {"video": {"agent": "true"}}),
    ("a grant that is a number", 401, {"video": {"canPublish": 1}}),
    ("a grant that is null", 200, {"video": {"canPublish": None, "canPublishSources": None}}),
    ("a grant of the future", 200, {"video": {"later": "yes"}}),
    ("a room that is a number", 401, {"video": {"room": 5}}),
    ("sources that are text", 401, {"video": {"canPublishSources": "camera"}}),
    ("sources that are numbers", 401, {"video": {"canPublishSources": [1]}}),
    ("a source that nobody knows", 200, {"video": {"canPublishSources": ["nonsense"]}}),
    ("metadata that is a number", 401, {"metadata": 5}),
    ("a name of half a character", 200, {"name": "\ud83d"}),
    ("an attribute that is a number", 401, {"attributes": {"a": 5}}),
    ("an attribute that is null", 200, {"attributes": {"a": None}}),
    ("a preset that is a number", 401, {"roomPreset": 5}),
    ("a hash that is a number", 401, {"sha256": 5}),
    ("a room configuration", 200, {"roomConfig": {"emptyTimeout": "30", "later": 1, "agents": [{"agentName": "a"}]}}),
    ("a room configuration that is a number", 401, {"roomConfig": 5}),
    ("agents that are a number", 401, {"roomConfig": {"agents": 5}}),
    ("an agent that is a number", 401, {"roomConfig": {"agents": [5]}}),
    ("an agent's name that is a number", 401, {"roomConfig": {"agents": [{"agentName": 5}]}}),
    ("a time below zero", 401, {"roomConfig": {"emptyTimeout": -1}}),
    ("a room configuration with half a character", 401, {"roomConfig": {"metadata": "\ud800"}}),
]

ADMIN = bearer(roomCreate=True, roomList=True, roomAdmin=True, room="r1", agent=True)
ROOMS = "/twirp/livekit.RoomService/"
DISPATCHES = "/twirp/livekit.AgentDispatchService/"


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    method: str = "POST"
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | dict[str, object] | list[object] = b""
    status: int = 200
    answer: object = None
    """A text body, a JSON value, or None for whatever."""
    sends: Mapping[str, str | None] = field(default_factory=dict)
    """Headers of the answer; None for absent ones."""
    embedded: tuple[int, object] | None = None
    expired_for: float | None = None
    """Seconds since the end of the token, at the moment of asking."""

    def raw(self) -> bytes:
        headers = dict(self.headers)
        if self.expired_for is not None:
            headers |= bearer(age=_DAY + self.expired_for, roomList=True)
        body = self.body
        if isinstance(body, dict | list):
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else body
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: lk", *(f"{k}: {v}" for k, v in headers.items())]
        if data or self.method == "POST":
            lines.append(f"Content-Length: {len(data)}")
        return "\r\n".join([*lines, "", ""]).encode() + data


def bad_route(msg: str, route: str) -> dict[str, object]:
    return {"code": "bad_route", "msg": msg, "meta": {"twirp_invalid_route": route}}


def _rooms(name: str, method: str, body: object, status: int = 200, answer: object = None, **more: object) -> Row:
    headers = {**JSON, **ADMIN}
    return Row(name=name, path=ROOMS + method, headers=headers, body=body, status=status, answer=answer, **more)  # type: ignore[arg-type]


#: No room is needed for these, and none is left behind.
STATELESS: list[Row] = [
    # health, unknown paths, CORS
    Row(name="GET /", method="GET", path="/", answer="OK", sends={"vary": "Origin", "content-type": PLAIN}),
    Row(name="POST /", path="/", answer="OK"),
    Row(name="PUT /", method="PUT", path="/", answer="OK"),
    Row(name="HEAD /", method="HEAD", path="/", answer="", sends={"content-length": "2"}),
    Row(name="OPTIONS / without a question", method="OPTIONS", path="/", answer="OK"),
    Row(
        name="with an origin", method="GET", path="/", headers={"Origin": "http://a.b"}, answer="OK",
        sends={"access-control-allow-origin": "http://a.b", "access-control-expose-headers": "*"},
    ),
    Row(
        name="with two origins, of which the first is none", method="GET", path="/", answer="OK",
        headers={"Origin": "", "origin": "http://a.b"}, sends={"access-control-allow-origin": None},
    ),
    Row(
        name="preflight", method="OPTIONS", path=ROOMS + "ListRooms", status=204, answer="",
        headers={
            "Origin": "http://a.b",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-foo",
        },
        sends={
            "access-control-allow-origin": "http://a.b",
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": "authorization,x-foo",
            "access-control-max-age": "86400",
            "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        },
    ),
    Row(
        name="preflight of a method that is not allowed", method="OPTIONS", path="/", status=204, answer="",
        headers={"Origin": "http://a.b", "Access-Control-Request-Method": "PUT"},
        sends={"access-control-allow-origin": None},
    ),
    Row(name="unknown path", method="GET", path="/foo", status=404, answer=NOT_FOUND[1],
        sends={"content-type": PLAIN, "x-content-type-options": "nosniff"}),
    Row(name="unknown service", path="/twirp/unknown.Service/X", headers=JSON, status=404, answer=NOT_FOUND[1]),
    # the token check, on every path and before the route
    Row(name="no Bearer", method="GET", path="/", headers={"Authorization": "Basic x"}, status=401,
        answer="invalid authorization header. Must start with Bearer "),
    Row(name="Bearer and nothing", method="GET", path="/foo", headers={"Authorization": "Bearer "}, status=401,
        answer="invalid authorization header. Must start with Bearer "),
    Row(name="no token at all in it", method="GET", path="/", headers={"Authorization": "Bearer abc"}, status=401,
        answer="invalid authorization token", sends={"content-type": PLAIN, "x-content-type-options": None}),
    Row(name="unknown key", path=ROOMS + "ListRooms", headers={**JSON, **bearer(key="K", roomList=True)}, body="{}",
        status=401, answer="invalid API key: K", embedded=(401, "invalid API key")),
    Row(name="wrong secret", path=ROOMS + "ListRooms", headers={**JSON, **bearer(secret="x" * 32)}, body="{}",
        status=401),
    Row(name="expired", path=ROOMS + "ListRooms", headers=JSON, expired_for=65, body="{}", status=401),
    Row(name="inside the leeway", path=ROOMS + "ListRooms", headers=JSON, expired_for=50, body="{}"),
    *[Row(name=f"claims: {name}", method="GET", path="/", headers=claiming(**claims), status=status)
      for name, status, claims in CLAIMS],
    Row(name="token in the query", path=ROOMS + "ListRooms?access_token=" + token(roomList=True), headers=JSON,
        body="{}"),
    Row(name="a bad header is not rescued by the query", path=ROOMS + "ListRooms?access_token=" + token(roomList=True),
        headers={**JSON, "Authorization": "Bearer abc"}, body="{}", status=401),
    # routing
    Row(name="service without method", path=ROOMS[:-1], status=307, sends={"location": ROOMS}),
    Row(name="service with a slash", path=ROOMS, status=404,
        answer=bad_route(f'no handler for path "{ROOMS}"', f"POST {ROOMS}")),
    Row(name="unknown method", path=ROOMS + "Nope", headers=JSON, body="{}", status=404,
        answer=bad_route(f'no handler for path "{ROOMS}Nope"', f"POST {ROOMS}Nope"),
        sends={"content-type": "application/json"}),
    Row(name="slash after the method", path=ROOMS + "ListRooms/", headers=JSON, body="{}", status=404,
        answer=bad_route(f'no handler for path "{ROOMS}ListRooms/"', f"POST {ROOMS}ListRooms/")),
    Row(name="GET of a method", method="GET", path=ROOMS + "ListRooms", status=404,
        answer=bad_route('unsupported method "GET" (only POST is allowed)', f"GET {ROOMS}ListRooms")),
    Row(name="text/plain", path=ROOMS + "ListRooms", headers={"Content-Type": "text/plain"}, body="{}", status=404,
        answer=bad_route('unexpected Content-Type: "text/plain"', f"POST {ROOMS}ListRooms")),
    Row(name="application/x-protobuf", path=ROOMS + "ListRooms", headers={"Content-Type": "application/x-protobuf"},
        status=404),
    Row(name="no content type", path=ROOMS + "ListRooms", body="{}", status=404,
        answer=bad_route('unexpected Content-Type: ""', f"POST {ROOMS}ListRooms")),
    # bodies, before grants
    *(
        Row(name=f"malformed {body!r}", path=ROOMS + "ListRooms", headers=JSON, body=body, status=400,
            answer={"code": "malformed", "msg": "the json request could not be decoded"})
        for body in ("nope", "", "null", "[]", '{"names": 1}', '{"\\ud800": 1}', "[" * 5000)
    ),
    Row(name="malformed protobuf", path=ROOMS + "ListRooms", headers=PROTOBUF, body=b"\xff\xff", status=400,
        answer={"code": "malformed", "msg": "the protobuf request could not be decoded"},
        sends={"content-type": "application/json"}),
    # grants
    Row(name="no token", path=ROOMS + "ListRooms", headers=JSON, body="{}", status=401, answer=DENIED[1]),
    Row(name="no token, protobuf", path=ROOMS + "ListRooms", headers=PROTOBUF, status=401, answer=DENIED[1]),
    Row(name="wrong grant", path=ROOMS + "ListRooms", headers={**JSON, **bearer(roomCreate=True)}, body="{}",
        status=401, answer=DENIED[1]),
    Row(name="grant that is not true", path=ROOMS + "CreateRoom", headers={**JSON, **bearer(roomAdmin=True)},
        body='{"name": "x"}', status=401, answer=DENIED[1]),
    Row(name="admin of another room", path=ROOMS + "ListParticipants", headers={**JSON, **ADMIN}, body={"room": "r2"},
        status=401, answer=DENIED[1]),
    Row(name="dispatch for another room", path=DISPATCHES + "CreateDispatch", headers={**JSON, **ADMIN},
        body={"room": "r2"}, status=401, answer=DENIED[1]),
    # encodings
    _rooms("an empty list", "ListRooms", "{}", answer={"rooms": []}),
    Row(name="parameters of a content type", path=ROOMS + "ListRooms", answer={"rooms": []}, body="{}",
        headers={"Content-Type": "Application/JSON;charset=UTF-8", **ADMIN},
        sends={"content-type": "application/json"}),
    Row(name="an empty protobuf body", path=ROOMS + "ListRooms", headers={**PROTOBUF, **ADMIN}, answer="",
        sends={"content-type": "application/protobuf"}),
    _rooms("unknown fields", "ListRooms", {"names": ["zz"], "later": {"deep": [1]}}, answer={"rooms": []}),
    # limits and what is not there
    _rooms("room name of 257", "CreateRoom", {"name": "r" * 257}, 400,
           {"code": "invalid_argument", "msg": "twirp error unknown: room name length exceeds limits: max length 256"}),
    _rooms("room metadata too large", "CreateRoom", {"name": "r1", "metadata": "r" * 524_289}, 400,
           {"code": "invalid_argument", "msg": "metadata size exceeds limits 524288",
            "meta": {"argument": "metadata size exceeds limits"}}),
    _rooms("an unknown preset", "CreateRoom", {"name": "r-preset", "room_preset": "nope"}, 400,
           {"code": "invalid_argument",
            "msg": "twirp error unknown: unknown room configuration in create room request"}),
    _rooms("participant name too long", "UpdateParticipant", {"room": "r2", "name": "n" * 257}, 400),
    _rooms("participants of an unknown room", "ListParticipants", {"room": "r1"}, answer={"participants": []}),
    _rooms("delete an unknown room", "DeleteRoom", {"room": "zz"}, 404,
           {"code": "not_found", "msg": "twirp error unknown: requested room does not exist"}),
    _rooms("metadata of an unknown room", "UpdateRoomMetadata", {"room": "r1", "metadata": "z"}, 404,
           {"code": "not_found", "msg": "twirp error unknown: requested room does not exist"}),
    *(
        Row(name=f"dispatch with {name}", path=DISPATCHES + "CreateDispatch", headers={**JSON, **ADMIN},
            body={"room": "r1", **body}, status=400, answer={"code": "invalid_argument", "msg": msg})
        for name, body, msg in (
            ("a bad deployment", {"deployment": "a_b"},
             "twirp error unknown: deployment contains reserved character '_'"),
            ("a long deployment", {"deployment": "a_" * 40}, "twirp error unknown: deployment exceeds 64 bytes"),
            ("a deployment with a blank", {"deployment": "é b_"},
             "twirp error unknown: deployment contains whitespace or control byte at position 2"),
            ("large metadata", {"metadata": "r" * 524_289}, "twirp error unknown: metadata size exceeds limits"),
            ("large attributes", {"attributes": {"k": "v" * 65_536}},
             "twirp error unknown: attribute size exceeds limits"),
        )
    ),
    # /agent
    Row(name="/agent without upgrade", method="GET", path="/agent", headers=ADMIN, status=404, answer=""),
    Row(name="/agent posted", path="/agent", headers=ADMIN, status=404, answer=""),
    Row(name="/agent without a token", method="GET", path="/agent", headers=UPGRADE, status=401,
        answer="no permissions to access the room"),
    Row(name="/agent without the grant", method="GET", path="/agent", headers={**UPGRADE, **bearer(roomJoin=True)},
        status=401, answer="no permissions to access the room", sends={"vary": "Origin"}),
    Row(name="/agent with a bad token", method="GET", path="/agent", headers={**UPGRADE, "Authorization": "Bearer x"},
        status=401, answer="invalid authorization token"),
    Row(name="/agent upgraded by POST", path="/agent", headers={**UPGRADE, **ADMIN}, status=405,
        answer="Method Not Allowed\n"
        "websocket: the client is not using the websocket protocol: request method is not GET",
        sends={"sec-websocket-version": "13"}),
    Row(name="/agent of another version", method="GET", path="/agent",
        headers={**UPGRADE, **ADMIN, "Sec-WebSocket-Version": "8"}, status=400,
        answer="Bad Request\nwebsocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header",
        sends={"sec-websocket-version": "13"}),
    Row(name="/agent with a short key", method="GET", path="/agent",
        headers={**UPGRADE, **ADMIN, "Sec-WebSocket-Key": "AAAA"}, status=400,
        answer="Bad Request\nwebsocket: not a websocket handshake: 'Sec-WebSocket-Key' header must be Base64 encoded "
        "value of 16-byte in length"),
    Row(name="/agent/", method="GET", path="/agent/", headers={**UPGRADE, **ADMIN}, status=404, answer=NOT_FOUND[1]),
    Row(name="/agent", method="GET", path="/agent", headers={**UPGRADE, **ADMIN, "Origin": "http://a.b"}, status=101,
        sends={"sec-websocket-accept": "ICX+Yqv66kxgM0FcWaLWlFLwTAI=", "vary": None, "sec-websocket-protocol": None,
               "access-control-allow-origin": None}),
    Row(name="//agent", method="GET", path="//agent", headers={**UPGRADE, **ADMIN}, status=101),
    Row(name="/agent with the token in the query", method="GET", path="/agent?protocol=1&access_token="
        + token(agent=True), headers=UPGRADE, status=101),
    # what only one of the two has
    Row(name="/rtc", method="GET", path="/rtc", status=404, embedded=(501, None)),
    Row(name="/rtc/validate", method="GET", path="/rtc/validate", status=401, embedded=(501, None)),
    Row(name="/rooms/v1", method="GET", path="/rooms/v1", headers={**UPGRADE, "Authorization": "Bearer "
        + token(roomJoin=True, room="r")}, status=404, embedded=(101, None)),
    Row(name="/rooms/v1 without a token", method="GET", path="/rooms/v1", headers=UPGRADE, status=404,
        embedded=(401, None)),
    Row(name="/rooms/v1 of a worker", method="GET", path="/rooms/v1", headers={**UPGRADE, "Authorization": "Bearer "
        + token(agent=True)}, status=404, embedded=(401, None)),
    Row(name="/rooms/v1 without an upgrade", method="GET", path="/rooms/v1", status=404),
    Row(name="/rooms/v2", method="GET", path="/rooms/v2", status=404, embedded=(501, None)),
]  # fmt: skip

#: One after the other, on a server without room r1.
STORY: list[Row] = [
    _rooms("create", "CreateRoom", {"name": "r1", "metadata": "mm", "emptyTimeout": 30, "max_participants": 5}),
    _rooms("create it again: nothing changes", "CreateRoom", {"name": "r1", "metadata": "other"}),
    _rooms("list by name", "ListRooms", {"names": ["r1", "zz"]}),
    _rooms("nobody is in it", "ListParticipants", {"room": "r1"}, answer={"participants": []}),
    *(
        _rooms(f"{method} of nobody", method, {"room": "r1", "identity": "x"}, 404,
               {"code": "not_found", "msg": "twirp error unknown: participant does not exist"})
        for method in ("GetParticipant", "RemoveParticipant", "UpdateParticipant")
    ),
    *(
        _rooms(f"{'mute' if muted else 'unmute'} a track of nobody", "MutePublishedTrack",
               {"room": "r1", "identity": "x", "track_sid": "TR_x", "muted": muted}, 503,
               {"code": "unavailable", "msg": "twirp error unknown: no response from servers"})
        for muted in (True, False)
    ),
    _rooms("mute without the grant for that room", "MutePublishedTrack", {"room": "r2", "identity": "x"}, 401,
           DENIED[1]),
    _rooms("send data", "SendData", {"room": "r1", "data": "aGk=", "kind": "LOSSY"}, answer={}),
    _rooms("send data with a short nonce", "SendData", {"room": "r1", "data": "aGk=", "nonce": "aGk="}, 400,
           {"code": "invalid_argument", "msg": "nonce should be 16-bytes or not present, got: 2 bytes"}),
    _rooms("room metadata", "UpdateRoomMetadata", {"room": "r1", "metadata": "z"}),
    Row(name="dispatch", path=DISPATCHES + "CreateDispatch", headers={**JSON, **ADMIN},
        body={"room": "r1", "agentName": "a", "metadata": "m", "attributes": {"k": "v"},
              "restart_policy": "JRP_NEVER", "deployment": "staging"}),
    Row(name="list dispatches", path=DISPATCHES + "ListDispatch", headers={**JSON, **ADMIN}, body={"room": "r1"}),
    Row(name="list an unknown dispatch", path=DISPATCHES + "ListDispatch", headers={**JSON, **ADMIN},
        body={"room": "r1", "dispatch_id": "AD_x"}, answer={"agent_dispatches": []}),
    Row(name="delete an unknown dispatch", path=DISPATCHES + "DeleteDispatch", headers={**JSON, **ADMIN},
        body={"room": "r1", "dispatch_id": "AD_x"}, status=404,
        answer={"code": "not_found", "msg": "twirp error unknown: dispatch ID not found"}),
    Row(name="delete dispatch without an id", path=DISPATCHES + "DeleteDispatch", headers={**JSON, **ADMIN},
        body={"room": "r1"}, status=404),
    _rooms("delete", "DeleteRoom", {"room": "r1"}, answer={}),
    Row(name="dispatches of a room that is not live", path=DISPATCHES + "ListDispatch", headers={**JSON, **ADMIN},
        body={"room": "r1"}, status=503,
        answer={"code": "unavailable", "msg": "twirp error unknown: no response from servers"}),
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Answer | None:
        """The answer, once it is complete; a HEAD's has no body whatever its length says."""
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(body) < int(headers.get("content-length", "0")) and headers.get("x-head") is None:
            return None
        return cls(int(first.split(" ")[1]), headers, body)


def check(row: Row, answer: Answer, *, embedded: bool) -> None:
    """Whether the answer is the row's."""
    status, expected = row.status, row.answer
    if embedded and row.embedded is not None:
        status, expected = row.embedded
    assert answer.status == status, answer
    if isinstance(expected, str):
        assert answer.body.decode() == expected
    elif expected is not None:
        assert json.loads(answer.body) == expected
    for name, value in row.sends.items():
        assert answer.headers.get(name) == value, (name, answer.headers)
    for secret in (value for name, value in row.headers.items() if name == "Authorization" and len(value) > 40):
        # The real server quotes bad tokens in its answer.
        assert not embedded or secret.removeprefix("Bearer ").encode() not in answer.body
