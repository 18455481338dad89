"""Twirp over HTTP: routing, decoding, encoding and errors of LiveKit's services, as the real server answers.

The order of the checks is part of the behaviour (recorded from v1.13.5): path, method, content type, then the body,
and the grants last, inside the method.  So a bad route or a malformed body wins over a missing permission.

What a method does is ``_services``' business; here a method is a function from a protobuf request and the caller's
claims to a protobuf answer that raises :class:`TwirpError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from ..protocol import Claims
from ._http import Request, Response
from ._messages import from_json

__all__ = ["Method", "Twirp", "TwirpError"]

_PREFIX = "/twirp/"
_JSON, _PROTOBUF = "application/json", "application/protobuf"

#: Twirp's own table.
_STATUS: Mapping[str, int] = {
    "canceled": 408,
    "unknown": 500,
    "invalid_argument": 400,
    "malformed": 400,
    "deadline_exceeded": 408,
    "not_found": 404,
    "bad_route": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "unauthenticated": 401,
    "resource_exhausted": 429,
    "failed_precondition": 412,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "dataloss": 500,
}


class TwirpError(Exception):
    """A method's refusal.  Caught in this file; never seen by anybody else."""

    def __init__(self, code: str, msg: str, meta: Mapping[str, str] | None = None) -> None:
        super().__init__(msg)
        self.code, self.msg, self.meta = code, msg, meta

    @classmethod
    def service(cls, code: str, msg: str) -> TwirpError:
        """With the prefix that the real server's inner bus puts before most of its errors."""
        return cls(code, f"twirp error unknown: {msg}")


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    request: type[Message]
    serve: Callable[[Any, Claims | None], Message]


class Twirp:
    """The services under ``/twirp/``."""

    def __init__(self, services: Mapping[str, Mapping[str, Method]]) -> None:
        self._services = services

    def answer(self, request: Request, claims: Claims | None) -> Response | None:
        """The answer to a request; None when no service has that path."""
        service, slash, name = request.path.removeprefix(_PREFIX).partition("/")
        methods = self._services.get(service) if request.path.startswith(_PREFIX) else None
        if methods is None:
            return None
        if not slash:
            return Response(status=307, headers={"location": request.path + "/"})
        try:
            return self._call(request, methods.get(name), claims)
        except TwirpError as error:
            return _error(error)

    def _call(self, request: Request, method: Method | None, claims: Claims | None) -> Response:
        route = {"twirp_invalid_route": f"{request.method} {request.path}"}
        # Go's %q and JSON quote alike what an HTTP path or header can hold.
        if request.method != "POST":
            quoted = json.dumps(request.method)
            raise TwirpError("bad_route", f"unsupported method {quoted} (only POST is allowed)", route)
        if method is None:
            raise TwirpError("bad_route", f"no handler for path {json.dumps(request.path)}", route)
        field = request.headers.get("content-type", "")
        kind = field.partition(";")[0].strip().lower()
        if kind not in (_JSON, _PROTOBUF):
            raise TwirpError("bad_route", f"unexpected Content-Type: {json.dumps(field)}", route)
        decode, encode = (_from_json, _to_json) if kind == _JSON else (_from_protobuf, _to_protobuf)
        answer = method.serve(decode(method.request, request.body), claims)
        return Response(status=200, body=encode(answer), headers={"content-type": kind})


def _error(error: TwirpError) -> Response:
    body: dict[str, object] = {"code": error.code, "msg": error.msg}
    if error.meta:
        body["meta"] = dict(error.meta)
    data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return Response(status=_STATUS[error.code], body=data, headers={"content-type": _JSON})


# ------------------------------------------------------------------------------------------------------ encodings


def _from_protobuf(kind: type[Message], body: bytes) -> Message:
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise TwirpError("malformed", "the protobuf request could not be decoded") from None
    return message


def _to_protobuf(message: Message) -> bytes:
    return message.SerializeToString()


def _from_json(kind: type[Message], body: bytes) -> Message:
    try:
        value = json.loads(body)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return from_json(kind, cast("dict[str, Any]", value))
    except (ValueError, RecursionError):
        raise TwirpError("malformed", "the json request could not be decoded") from None


def _to_json(message: Message) -> bytes:
    value = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps(_as_go_does(message, value), separators=(",", ":"), ensure_ascii=False).encode()


def _as_go_does(message: Message, value: dict[str, Any]) -> dict[str, Any]:
    """Go's protojson keeps the order of the fields, and prints an unset message as null where Python leaves it out."""
    result: dict[str, Any] = {}
    for field in sorted(message.DESCRIPTOR.fields, key=lambda field: field.index):
        name = field.name
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            if name in value:
                result[name] = value[name]
        elif field.is_repeated:
            pairs = zip(getattr(message, name), value.get(name, []), strict=True)
            result[name] = [_as_go_does(child, rendered) for child, rendered in pairs]
        elif message.HasField(name):
            result[name] = _as_go_does(getattr(message, name), value[name])
        elif field.containing_oneof is None:
            result[name] = None
    return result
