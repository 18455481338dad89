"""A transport that is wrong in one thing fails the conformance suite, in the case that is about that thing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import test_audio
import test_conformance
import test_wire
import wrong
from venues import MemoryVenue

from livekit_agent.rooms._memory_transport import MemoryTransport
from livekit_agent.simulation import run_virtual

Case = Callable[..., Any]

SWITCHES: dict[type[MemoryTransport], tuple[Case, dict[str, Any]]] = {
    wrong.OrderSwapped: (test_conformance.test_the_library_says_it_in_this_order, {}),
    wrong.EventDoubled: (test_wire.test_a_change_by_the_server_is_said_three_times, {"field": "metadata"}),
    wrong.EndMissing: (test_conformance.test_who_is_removed_leaves_with_that_reason, {}),
    wrong.EndDoubled: (test_wire.test_the_end_is_said_in_this_order_and_answered_after_it, {}),
    wrong.HandleLeaked: (test_conformance.test_two_meet_and_one_goes, {}),
    wrong.PermissionIgnored: (test_wire.test_a_change_without_permission_is_refused_in_these_words, {}),
    wrong.WrongIdentity: (test_conformance.test_data_goes_both_ways_with_its_topic, {"reliable": True}),
    wrong.DestinationIgnored: (test_conformance.test_data_goes_only_where_it_is_sent, {}),
    wrong.AnswerFirst: (test_wire.test_a_track_that_is_taken_back_is_told_before_it_is_answered, {}),
    wrong.EverythingFound: (test_conformance.test_an_unknown_track_cannot_be_taken_back, {}),
    wrong.ServersMuteOnce: (
        test_wire.test_a_mute_by_the_server_is_said_twice_to_the_publisher_and_told_once,
        {},
    ),
    wrong.PreviousValues: (test_conformance.test_what_one_says_of_itself_reaches_the_others, {}),
    wrong.FramesSwapped: (test_audio.test_a_tone_is_heard_as_it_was_played, {"rate": 48_000, "channels": 1}),
    wrong.MuteUnheard: (test_audio.test_a_muted_track_is_silence_and_sounds_again, {}),
    wrong.ChunkLost: (test_wire.test_a_reader_that_is_opened_late_loses_nothing, {}),
    wrong.NobodyAnswers: (test_wire.test_a_call_is_answered_once, {}),
}

_numbers = itertools.count(1)
FAILURES = (Exception, BaseExceptionGroup, pytest.fail.Exception)


def play(case: Case, parameters: dict[str, Any], backend: str) -> None:
    """One case of the suite, in a room in memory, as pytest would play it."""
    with pytest.MonkeyPatch.context() as patch:
        asked = case.__code__.co_varnames[: case.__code__.co_argcount]
        fixtures: dict[str, Any] = {}
        if "monkeypatch" in asked:
            fixtures["monkeypatch"] = patch
        if "wire" in asked:
            fixtures["wire"] = test_wire.listening(patch)
        venue = MemoryVenue(f"wrong-{next(_numbers)}")
        run_virtual(partial(case, venue=venue, **fixtures, **parameters), backend=backend)


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.__name__)
def test_what_is_wrong_is_noticed(switch: type[MemoryTransport], backend: str) -> None:
    case, parameters = SWITCHES[switch]
    play(case, parameters, backend)
    with wrong.instead(switch), pytest.raises(FAILURES):
        play(case, parameters, backend)


def test_there_are_at_least_ten_ways_to_be_wrong() -> None:
    switches = [
        value for value in vars(wrong).values() if isinstance(value, type) and issubclass(value, MemoryTransport)
    ]
    assert {*switches} - {MemoryTransport} == set(SWITCHES)
    assert len(SWITCHES) >= 10
