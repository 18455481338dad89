"""What the trace calls a connection."""

from __future__ import annotations

from contextvars import Context

from livekit_agent.protocol import SignalConnection
from livekit_agent.simulation._checkers import CHECKERS, Jury
from livekit_agent.simulation._scenario import Scenario
from livekit_agent.simulation._tap import Tap
from livekit_agent.simulation._trace import Trace


def test_connections_that_end_without_a_word_are_told_apart() -> None:
    """Found at seed 0x747 on asyncio: two ended by the server's timer, and W15 took them for one that ended twice."""
    trace = Trace()
    jury = Jury(Scenario(seed=0, scheduler_seed=0), CHECKERS)
    trace.observe(jury.see)
    SignalConnection.tracer = Tap(trace, lambda: 20.0)

    def silent_end() -> None:
        SignalConnection.server(now=0.0).handle_timeout(20.0)

    try:
        for _ in range(2):
            # Nobody's: in a context in which no task has said who it is.
            Context().run(silent_end)
    finally:
        SignalConnection.tracer = None
    jury.finish()
    assert [note.who for note in trace.notes if note.what == "closed"] == ["s:world#1", "s:world#2"]
    assert list(jury.violations) == []
