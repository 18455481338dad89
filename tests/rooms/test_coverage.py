"""Nothing of the library and of the other clients is overlooked: each name is used, or left out for a reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from test_contract import REQUESTS

import livekit_agent.rooms
from coverage_tables import TABLES, Row, code_of, exists, rows, sections, table, test_exists
from livekit_agent.rooms import _updates
from livekit_agent.rooms._proto import ffi, room

SOURCE = Path(livekit_agent.rooms.__file__).parent
FILES = ("library", "livekit_rtc", "livekit_client")
ALL: list[tuple[str, Row]] = [
    (f"{file}: {name}", row) for file in FILES for name, section in sections(table(file)) for row in section.values()
]


def kinds(message: Any) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.oneofs_by_name["message"].fields}


def made() -> set[str]:
    """The requests that the source makes."""
    return {
        name
        for path in SOURCE.glob("*.py")
        if not path.name.startswith("_memory")
        for name in re.findall(r"FfiRequest\((\w+)=", path.read_text())
    }


# ------------------------------------------------------------------------------------------------ the rows


def test_every_row_says_what_became_of_the_name() -> None:
    assert [f"{where}.{row.key}" for where, row in ALL if not row.names and not row.out] == []
    assert [f"{where}.{row.key}" for where, row in ALL if row.names and row.out] == []
    assert [f"{where}.{row.key}" for where, row in ALL if row.out in ("planned", "later", "todo")] == []
    assert len(ALL) > 600


def test_every_public_name_that_a_row_tells_is_there_and_proven() -> None:
    proofs = table("proofs")["proofs"]
    told = {name for _, row in ALL for name in row.names}
    assert sorted(name for name in told if not exists(name)) == []
    assert sorted(told - proofs.keys()) == [], "name a test in coverage/proofs.toml"
    assert sorted(proofs.keys() - told) == [], "nobody refers to these"


def test_every_proof_is_a_test_that_exists() -> None:
    proofs = table("proofs")["proofs"]
    assert [f"{name}: {proof}" for name, proof in proofs.items() if not test_exists(proof)] == []


def test_every_proof_uses_what_it_proves() -> None:
    """What is called, read or passed: in the test or in what it uses of its file.  A class may go without a name."""
    proofs = table("proofs")["proofs"]
    last = {name: re.split(r"[.(]", name.rstrip(")"))[-1] for name in proofs}
    assert [
        f"{name}: {proof}"
        for name, proof in proofs.items()
        if last[name][0].islower() and not re.search(rf"\b{last[name]}\b", code_of(proof))
    ] == []


def test_a_name_or_a_test_that_does_not_exist_is_noticed() -> None:
    for name in ("Room.nonsense", "Nonsense", "Room.disconnect(nonsense)", "events.Nonsense", "ChatMessage.nonsense"):
        assert not exists(name)
    for name in ("Room.disconnect(reason)", "events.DataReceived", "ChatMessage.text", "RemoteTrack.sid", "RpcError"):
        assert exists(name)
    assert test_exists("coverage::a_name_or_a_test_that_does_not_exist_is_noticed")
    assert not test_exists("coverage::nonsense")
    assert not test_exists("nonsense::nonsense")


# ------------------------------------------------------------------------------------------------ the library


@pytest.mark.parametrize(
    ("section", "message"),
    [("requests", ffi.FfiRequest), ("events", ffi.FfiEvent), ("room_events", room.RoomEvent)],
)
def test_everything_that_the_library_can_be_asked_or_tells_is_in_the_table(section: str, message: Any) -> None:
    """An upgrade that brings a new one fails here: use it, or say why not."""
    assert set(table("library")[section]) == kinds(message)


def test_the_requests_used_are_those_that_the_source_makes() -> None:
    used = {row.key for row in rows(table("library")["requests"]).values() if row.used}
    assert used == made()


def test_the_room_events_used_are_those_that_change_the_model() -> None:
    used = {row.key for row in rows(table("library")["room_events"]).values() if row.used}
    assert used == {*_updates.HANDLED, "disconnected", "eos"}


def test_every_field_of_a_request_that_we_make_is_set_or_left_out_for_a_reason() -> None:
    out = rows(table("library")["request_fields"])
    for kind in sorted(made()):
        fields = {field.name for field in ffi.FfiRequest.DESCRIPTOR.fields_by_name[kind].message_type.fields}
        left = {key.partition(".")[2] for key in out if key.partition(".")[0] == kind}
        assert fields == left | set(REQUESTS[kind][0].split()), kind


def option_messages() -> dict[str, Descriptor]:
    """The messages inside requests, by name; maps are fields, not messages."""
    seen: dict[str, Descriptor] = {}

    def walk(descriptor: Descriptor) -> None:
        if descriptor.full_name not in seen:
            seen[descriptor.full_name] = descriptor
            for field in descriptor.fields:
                if field.message_type is not None:
                    walk(field.message_type)

    walk(ffi.FfiRequest.DESCRIPTOR)
    return {
        name.removeprefix("livekit.proto."): descriptor
        for name, descriptor in seen.items()
        if not name.endswith("Request") and not descriptor.GetOptions().map_entry
    }


def test_every_field_of_every_option_is_in_the_table() -> None:
    options = table("library")["options"]
    messages = option_messages()
    assert set(options) == set(messages)
    for name, descriptor in messages.items():
        if "*" not in options[name]:
            assert set(options[name]) == {field.name for field in descriptor.fields}, name


# ------------------------------------------------------------------------------------------------ other clients

WALK = """
import inspect, json
import livekit.rtc as rtc

def members(cls):
    found = []
    for name, value in vars(cls).items():
        if name.startswith("_") or name.isupper() or name in ("ErrorCode", "ErrorMessage", "DESCRIPTOR"):
            continue
        if inspect.isroutine(value) or isinstance(value, (property, classmethod, staticmethod)):
            found.append(name)
    if cls.__name__.endswith(("Options", "Configuration")):
        found += [name for name in getattr(cls, "__dataclass_fields__", ()) if name not in found]
    return found

classes = {name: getattr(rtc, name) for name in rtc.__all__ if inspect.isclass(getattr(rtc, name))}
messages = {name for name, cls in classes.items() if hasattr(cls, "DESCRIPTOR")}
print(json.dumps([rtc.__all__, {n: members(c) for n, c in classes.items() if n not in messages and members(c)}]))
"""


def test_every_name_of_livekit_rtc_and_every_method_of_its_classes_is_in_the_table() -> None:
    """In a process of its own: importing it loads asyncio and numpy."""
    done = subprocess.run([sys.executable, "-c", WALK], check=True, capture_output=True, text=True, timeout=60)
    names, classes = json.loads(done.stdout)
    walked = table("livekit_rtc")
    assert set(walked["names"]) == set(names)
    assert set(walked["members"]) == set(classes)
    for name, members in classes.items():
        if "*" not in walked["members"][name]:
            assert set(walked["members"][name]) == set(members), name


def test_what_only_a_browser_has_is_said_to_be_so() -> None:
    """npm is not there in this suite: the names of livekit-client are a committed list, with its version, which
    tests/e2e/test_foreign.py holds against the package."""
    listed = table("livekit_client")
    assert re.fullmatch(r"\d+\.\d+\.\d+", listed["version"])
    browser = [row.key for _, section in sections(listed) for row in section.values() if row.out.startswith("browser")]
    assert {"startAudio", "canPlaybackVideo", "switchActiveDevice", "setAudioContext"} <= set(browser)


def test_the_tables_are_these() -> None:
    assert sorted(path.stem for path in TABLES.glob("*.toml")) == sorted([*FILES, "facts", "proofs", "go", "go_proofs"])
