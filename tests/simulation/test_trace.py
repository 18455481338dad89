"""The trace: what is in its lines is in its hash."""

from __future__ import annotations

import json
import random

from livekit_agent.simulation._trace import Note, NotedRandom, Trace


def written(*, steps: tuple[int, ...] = (1, 2), late: tuple[int, ...] = (3,), draw: float = 0.5) -> Trace:
    trace = Trace()
    trace.note(0.0, "world", "act", "chaos")
    for birth in steps:
        trace.step(birth)
    trace.draw(1.0, "network", draw)
    trace.note(2.0, "world", "act", "heal")
    for birth in late:
        trace.step(birth)
    return trace


def test_steps_are_lines_between_the_notes() -> None:
    lines = [json.loads(line) for line in written().lines()]
    assert [(line["t"], line["what"], line.get("tasks")) for line in lines] == [
        (0.0, "act", None),
        (0.0, "steps", [1, 2]),
        (1.0, "draw", None),
        (2.0, "act", None),
        (2.0, "steps", [3]),
    ]


def test_the_hash_covers_notes_draws_and_steps_and_where_they_are() -> None:
    hashes = [
        trace.digest()
        for trace in (
            written(),
            written(steps=(2, 1)),
            written(draw=0.25),
            written(late=()),
            written(steps=(1,), late=(2, 3)),
        )
    ]
    assert len(set(hashes)) == 5
    assert written().digest() == hashes[0]


def test_draws_of_one_purpose_are_one_note_as_long_as_nothing_comes_between() -> None:
    trace = Trace()
    for purpose, value in (("rooms", 0.1), ("rooms", 0.2), ("network", 3)):
        trace.draw(1.0, purpose, value)
    trace.step(1)
    trace.draw(1.0, "network", 4)
    trace.draw(1.5, "network", 5)
    lines = [json.loads(line) for line in trace.lines()]
    assert [(line["t"], line.get("kind"), line.get("values")) for line in lines] == [
        (1.0, "rooms", [0.1, 0.2]),
        (1.0, "network", [3]),
        (1.0, None, None),
        (1.0, "network", [4]),
        (1.5, "network", [5]),
    ]


def test_what_is_kept_is_shown_to_nobody() -> None:
    trace, seen = Trace(), list[Note]()
    trace.observe(seen.append)
    trace.draw(1.0, "network", 1)
    trace.note(2.0, "world", "act", "heal")
    assert [note.what for note in seen] == ["act"]
    assert [note.what for note in trace.notes] == ["draw", "act"]


def test_a_noted_generator_draws_what_a_plain_one_draws_and_tells_it() -> None:
    def draw(rng: random.Random) -> list[object]:
        items = list(range(9))
        rng.shuffle(items)
        return [rng.random(), rng.uniform(2, 5), rng.randint(0, 60), rng.choice("abc"), items, rng.randbytes(5)]

    noted, told = NotedRandom("network:7"), list[float]()
    noted.told = told.append
    assert draw(noted) == draw(random.Random("network:7"))
    assert len(told) >= 14
