"""Values that users read: numbers that are the wire's, and a job's metadata as JSON and as a type of theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import pytest
from livekit.protocol import agent, models

from livekit_agent import (
    ConnectionQuality,
    Job,
    JobMetadata,
    JobStatus,
    JobType,
    ParticipantPermissions,
    WorkerStats,
)
from livekit_agent.rooms import TrackSource


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (JobType, agent.JobType, "JT_"),
        (JobStatus, agent.JobStatus, "JS_"),
        (ConnectionQuality, models.ConnectionQuality, ""),
    ],
)
def test_the_numbers_are_the_wires(ours: Any, theirs: Any, prefix: str) -> None:
    named = {f"{prefix}{member.name}": member.value for member in ours}
    assert named == {name: number for name, number in theirs.items() if name in named}
    assert set(theirs.keys()) - named.keys() <= {"JS_CANCELLED"}


def test_figures_can_be_had_as_json_writes_them() -> None:
    figures = WorkerStats(connected=True, active_jobs=2, max_jobs=None, current_load=0.5).to_dict()
    assert list(figures) == [field.name for field in fields(WorkerStats)]
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["connected"], figures["active_jobs"], figures["max_jobs"]) == (True, 2, None)


@pytest.mark.parametrize("attributes", [None, "a=b", 5, [("a", "b")]])
def test_attributes_that_are_no_mapping_are_refused_where_they_are_written(attributes: Any) -> None:
    with pytest.raises(TypeError, match=r"^participant_attributes must be a mapping of text to text, not "):
        JobMetadata(participant_attributes=attributes)


@dataclass(frozen=True)
class Order:
    number: int
    express: bool = False


def a_job(metadata: str) -> Job:
    return Job(id="AJ_1", type=JobType.ROOM, metadata=metadata)


def test_metadata_can_be_had_as_json_and_as_a_type() -> None:
    job = a_job('{"number": 7, "express": true}')
    assert job.metadata_json() == {"number": 7, "express": True}
    assert job.metadata_as(Order) == Order(7, express=True)
    assert job.metadata_as(dict) == {"number": 7, "express": True}
    assert a_job("[1, 2]").metadata_json() == [1, 2]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("", "Expecting value"),
        ("not JSON", "Expecting value"),
        ("[1]", "list, not a JSON object"),
        ('{"express": true}', "does not fit Order: .*number"),
        ('{"number": 7, "colour": "red"}', "does not fit Order: .*colour"),
    ],
)
def test_metadata_that_does_not_fit_is_a_value_error_that_says_why(metadata: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_job(metadata).metadata_as(Order)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"can_publish": "no"}, "can_publish must be True or False, not str"),
        ({"hidden": 1}, "hidden must be True or False, not int"),
        ({"can_subscribe": None}, "can_subscribe must be True or False, not NoneType"),
        ({"can_publish_sources": "camera"}, "can_publish_sources must be numbers of sources, not 'camera'"),
        ({"can_publish_sources": 2}, "can_publish_sources must be numbers of sources, not 2"),
        ({"can_publish_sources": ("camera",)}, "can_publish_sources must be numbers of sources"),
        ({"can_publish_sources": (True,)}, "can_publish_sources must be numbers of sources"),
        ({"can_publish_sources": (2**31,)}, "can_publish_sources must be numbers of sources"),
    ],
)
def test_permissions_that_are_none_are_refused_where_they_are_written(wrong: dict[str, Any], message: str) -> None:
    """And not where the worker introduces itself, as a fault of the protocol."""
    with pytest.raises(TypeError, match=f"^{message}"):
        ParticipantPermissions(**wrong)


def test_sources_may_be_given_in_any_order_of_things() -> None:
    given = ParticipantPermissions(can_publish_sources=[TrackSource.CAMERA, 2])  # type: ignore[arg-type]
    assert given == ParticipantPermissions(can_publish_sources=(1, 2))
    assert hash(given) == hash(ParticipantPermissions(can_publish_sources=(1, 2)))


def test_every_permission_has_its_field_in_the_message() -> None:
    """All ten, each by itself: a field that is forgotten, or goes into another's place, is seen."""
    fields = {field.name for field in models.ParticipantPermission.DESCRIPTOR.fields}
    nothing = dict.fromkeys(fields - {"can_publish_sources"}, False)
    assert fields == set(ParticipantPermissions.__dataclass_fields__)
    for name in nothing:
        message = ParticipantPermissions(**{**nothing, name: True}).to_proto()
        assert [field.name for field, _ in message.ListFields()] == [name]
    sources = ParticipantPermissions(**nothing, can_publish_sources=(1, 2)).to_proto()
    assert list(sources.can_publish_sources) == [1, 2]
