"""Traces written by hand: one note a line, ``TIME WHO WHAT KIND JOB key=value …``, ``-`` for nothing.

Values are JSON or words with ``_`` between them; ``~`` stands for a blank in a kind.  What a note must have and a
dialogue does not care about has a default here.
"""

from __future__ import annotations

import json
from typing import Any

from livekit_agent.simulation._checkers import CHECKERS, Jury
from livekit_agent.simulation._scenario import Scenario
from livekit_agent.simulation._trace import Note

DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("say", "answer"): {"yes": False, "terminate": False},
    ("hear", "answer"): {"yes": False, "terminate": False},
    ("say", "job_status"): {"error": ""},
    ("hear", "job_status"): {"error": ""},
    ("say", "worker_status"): {"full": False, "load": 0.0, "count": 0, "draining": False},
    ("closed", ""): {"code": 1006, "error": "ConnectionLostError"},
    ("worker", "started"): {
        "max_jobs": None,
        "shutdown_timeout": 10.0,
        "cancel_grace": 1.5,
        "cleanup_timeout": 2.0,
        "job_timeout": None,
        "reconnect_timeout": 60.0,
    },
    ("worker", "ended"): {
        "error": "",
        "cancelled": False,
        "drained": (),
        "cut": (),
        "stuck": (),
        "unproven": (),
        "elapsed": 0.0,
    },
    ("event", "job_ended"): {"status": "SUCCESS", "reason": "", "leaves": ()},
    ("event", "connection_lost"): {"error": "ConnectionLostError", "retry_in": 0.1, "retry_after": None},
    ("event", "registered"): {"reconnect": False},
    ("handler", "asked"): {"request": "accept", "do": "hang", "seconds": 1.0, "children": 0, "cleanup": 0.0},
    ("handler", "started"): {"foreign": ""},
    ("handler", "returned"): {"foreign": "", "leaves": ()},
    ("handler", "raised"): {"foreign": "", "leaves": ()},
    ("handler", "cancelled"): {"foreign": "", "leaves": ()},
    ("deliver", "down"): {"bytes": 10, "kinds": ()},
    ("deliver", "up"): {"bytes": 10, "kinds": ()},
    ("replay", "twice"): {"same": True, "difference": ""},
    ("replay", "split"): {"same": True, "difference": ""},
    ("room", "left"): {"reason": 1},
    ("broken", "choke"): {"seconds": 5.0},
    ("media", "heard"): {
        "frames": (),
        "received": 0,
        "read": 0,
        "dropped": 0,
        "waiting": 0,
        "peak": 0,
        "capacity": 8,
        "abandoned": False,
    },
    ("end", ""): {"tasks_left": 0, "streams_left": 0},
}


def notes(dialogue: str) -> list[Note]:
    """The notes of a dialogue."""
    result: list[Note] = []
    for line in dialogue.strip().splitlines():
        line = line.partition("  //")[0].strip()
        if not line:
            continue
        words = line.split()
        t, who, what, kind, job = (*words[:3], *[word if word != "-" else "" for word in (*words[3:5], "-", "-")][:2])
        kind = kind.replace("~", " ")
        data = dict(DEFAULTS.get((what, kind), {}))
        for word in words[5:]:
            name, _, value = word.partition("=")
            try:
                data[name] = json.loads(value)
            except json.JSONDecodeError:
                data[name] = value.replace("_", " ")
            if isinstance(data[name], list):
                data[name] = tuple(data[name])
        result.append(Note(t=float(t), who=who, what=what, kind=kind, job=job, data=data))
    return result


def judged(dialogue: str) -> Jury:
    """All checkers after a dialogue."""
    jury = Jury(Scenario(seed=0, scheduler_seed=0), CHECKERS)
    for note in notes(dialogue):
        jury.see(note)
    jury.finish()
    return jury
