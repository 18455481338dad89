"""The exception tree: every error has a code, a place in the documentation, and says nothing secret."""

from __future__ import annotations

import ast
import builtins
import pickle
import re
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import livekit_agent
from livekit_agent import (
    AgentError,
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    HandlerDefinitionError,
    HandshakeError,
    InvalidJobTypeError,
    JobTimeoutError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RoomPermissionError,
    ShutdownTimeoutError,
    WorkerError,
    _errors,
)
from livekit_agent._errors import printable, redact

ROOT = Path(__file__).parent.parent
CLASSES = [value for name in _errors.__all__ if isinstance(value := getattr(_errors, name), type)]
CONCRETE = [cls for cls in CLASSES if cls is not ProtocolError]


def codes_in_the_source() -> set[str]:
    """Class attributes ``code = "…"`` and arguments ``code="…"``, wherever they stand."""
    codes: set[str] = {"AUTH_401", "AUTH_403"}  # built from the HTTP status
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                codes.add(str(node.value.value))
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "code":
                        codes.add(ast.literal_eval(item.value))
    return {code for code in codes if re.fullmatch(r"[A-Z][A-Z0-9_]+", code)}


def test_each_code_has_an_anchor_in_the_documentation_and_each_anchor_a_code() -> None:
    anchors = re.findall(r'<a id="([a-z0-9-]+)"></a>', (ROOT / "docs" / "errors.md").read_text())
    assert sorted(anchors) == sorted(code.lower().replace("_", "-") for code in codes_in_the_source())


@pytest.mark.parametrize("cls", CONCRETE)
def test_every_error_stands_alone(cls: type[AgentError]) -> None:
    error = cls()
    assert error.message == str(error) == cls.default_message
    assert error.docs_url.endswith("/errors/#" + error.code.lower().replace("_", "-"))
    assert error.hint == ""
    assert isinstance(error.retryable, bool)


@pytest.mark.parametrize("cls", CONCRETE)
def test_a_hint_is_printed_under_any_traceback(cls: type[AgentError]) -> None:
    error = cls("it broke", hint="mend it")
    assert (error.hint, str(error)) == ("mend it", "it broke")
    assert traceback.format_exception(error)[-1].strip() == "hint: mend it"


@pytest.mark.parametrize("cls", CONCRETE)
def test_errors_survive_pickling(cls: type[AgentError]) -> None:
    error = cls("it broke", hint="mend it", code="OTHER_CODE")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.message, copy.hint, copy.code) == ("it broke", "mend it", "OTHER_CODE")


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (ConfigError, ValueError),
        (HandlerDefinitionError, TypeError),
        (ConnectionLostError, builtins.ConnectionError),
        (HandshakeError, ConnectionLostError),
        (AuthenticationError, WorkerError),
        (ShutdownTimeoutError, TimeoutError),
        (JobTimeoutError, TimeoutError),
        (InvalidJobTypeError, ValueError),
        (RoomPermissionError, PermissionError),
        (LocalProtocolError, ProtocolError),
        (RemoteProtocolError, ProtocolError),
    ],
)
def test_errors_are_also_what_a_stranger_would_catch(cls: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)
    assert issubclass(cls, AgentError)


def test_an_authentication_error_is_no_connection_error_for_retrying_will_not_help() -> None:
    assert not issubclass(AuthenticationError, ConnectionLostError)
    assert not AuthenticationError.retryable


def test_protocol_error_is_abstract_because_it_must_say_whose_fault_it_was() -> None:
    with pytest.raises(TypeError, match="LocalProtocolError or RemoteProtocolError"):
        ProtocolError("somebody did something")


def test_the_seven_errors_of_the_reference_keep_their_texts() -> None:
    texts = {
        "WorkerNotConnectedError": "worker not connected",
        "JobTimeoutError": "job execution timeout",
        "ResourceExhaustedError": "resource limits exceeded",
        "InvalidJobTypeError": "invalid job type",
        "ConnectionLostError": "connection to LiveKit lost",
        "RecoveryFailedError": "job recovery failed",
        "ShutdownTimeoutError": "shutdown timeout exceeded",
    }
    assert {name: str(getattr(livekit_agent, name)()) for name in texts} == texts


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJBUEkifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"invalid token: {TOKEN}, error: expired",
        f"GET /rtc?access_token={TOKEN}&auto_subscribe=1",
        f"Authorization: Bearer {TOKEN}",
        "Authorization: bearer not.a.jwt.but-secret",
        TOKEN[:45],
        f"({TOKEN})" * 3,
    ],
)
def test_tokens_are_redacted_from_foreign_texts(text: str) -> None:
    clean = redact(text)
    assert "c2lnbmF0" not in clean
    assert "eyJpc3Mi" not in clean
    assert "not.a.jwt" not in clean
    assert "redacted" in clean


@given(st.text(max_size=500), st.integers(1, 400))
def test_printable_is_one_bounded_line(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
