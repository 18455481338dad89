"""Each invariant has a trace that breaks it and one that keeps it: a checker that cannot fire proves nothing."""

from __future__ import annotations

import math

import pytest

from livekit_agent.simulation._checkers import CHECKERS

from .dialogue import judged

#: A worker that registered, was given a job, and runs it.
RUNNING = """
0   w0.1    worker  started     -
0   w0.1#1  dial    -           -
0   w0.1#1  say     register    -   agent=sim
0.1 s:w0.1#1 hear   register    -   agent=sim
0.2 w0.1#1  hear    registered  -
1   w0.1#1  hear    offer       J
1   w0.1    handler asked       J
1   w0.1#1  say     answer      J   yes=true
1   w0.1    stage   accept      J   now=accepted
1.1 s:w0.1#1 hear   answer      J   yes=true
2   w0.1#1  hear    assignment  J
2   w0.1    stage   assign      J   now=assigned
2   world   room    entered     J
2   w0.1    stage   run         J   now=running
2   w0.1#1  say     job_status  J   status=RUNNING
2   w0.1    handler started     J
2.1 s:w0.1#1 hear   job_status  J   status=RUNNING
"""

#: It ends by itself, and the server hears of it.
ENDED = """
3   w0.1    handler cancelled   J
3   w0.1    stage   end         J   now=ended
3   w0.1#1  say     job_status  J   status=SUCCESS
3.1 s:w0.1#1 hear   job_status  J   status=SUCCESS
3.2 w0.1    handler terminated  J
3.2 world   room    left        J
3.2 w0.1    event   job_ended   J   reason=job_terminated_by_the_server
"""

TERMINATED = "3   w0.1#1  hear    termination J\n"
STOPPED = "9   w0.1    worker  stop        -   timeout=10\n"
GONE = "9   w0.1    worker  ended       -   elapsed=0\n"
REGISTERED = "\n".join(RUNNING.strip().splitlines()[:5]) + "\n"
A_LIFE = RUNNING + TERMINATED + ENDED

GOOD = {
    "a track that is listened to and given up": """
1   world   media   opened      -   stream=PA/7
2   w0.1    media   unsubscribed -  stream=PA/7 received=6
2   world   media   closed      -   stream=PA/7
3   w0.1    media   heard       J   stream=PA/7 frames=["1","2","5"] received=6 read=3 dropped=2 waiting=1 peak=8
""",
    "a job from its offer to its end": A_LIFE + GONE,
    "a status resent on the next connection": A_LIFE.replace("3.1 s:w0.1#1 hear   job_status  J   status=SUCCESS\n", "")
    + """
5   w0.1#1  closed  -           -
5   w0.1    event   connection_lost -
5.1 w0.1#2  dial    -           -
5.1 w0.1#2  say     register    -   agent=sim
5.2 w0.1#2  hear    registered  -
5.2 w0.1#2  say     job_status  J   status=SUCCESS
5.3 s:w0.1#2 hear   register    -   agent=sim
5.4 s:w0.1#2 hear   job_status  J   status=SUCCESS
"""
    + GONE,
    "a job that outlives its connection": RUNNING
    + """
5   w0.1#1  closed  -           -
5.1 w0.1#2  say     register    -   agent=sim
5.2 w0.1#2  hear    registered  -
5.2 w0.1#2  say     worker_status -  count=1
5.2 w0.1#2  say     migrate     -   jobs=["J"]
9   w0.1    handler cancelled   J
9   world   room    left        J   reason=5
9   w0.1    event   job_ended   J   reason=room_closed
""",
    "a handler that fails on an offer": REGISTERED
    + """
1   w0.1#1  hear    offer       J
1   w0.1    handler asked       J   request=raise
1   w0.1#1  say     answer      J   yes=false
""",
    "a handler that raises a group": RUNNING.replace("asked       J", "asked J do=group")
    + """
3   w0.1    handler raised      J   leaves=["one","two"]
3   w0.1    event   job_ended   J   status=FAILED reason=x leaves=["one","two"]
""",
    "a termination while the outbox is full": RUNNING
    + "2.5 net broken choke - connection=w0.1#1\n"
    + TERMINATED
    + ENDED,
    "a termination behind our own Close, while the outbox is full": RUNNING
    + """
2.5 net     broken  choke       -   connection=w0.1#1
2.6 w0.1#1  hear    go_away     -
3   w0.1#1  hear    termination J   unheard=true
7   w0.1    handler returned    J
7   w0.1    event   job_ended   J   status=SUCCESS
""",
    "an offer refused by a full worker": RUNNING.replace("started     -\n", "started     -   max_jobs=1\n", 1)
    + """
4   w0.1#1  hear    offer       K
4   w0.1#1  say     answer      K   yes=false
""",
    "a stray assignment": REGISTERED
    + """
2   w0.1#1  hear    assignment  K
2   w0.1#1  say     job_status  K   status=FAILED error=had_not_accepted
""",
    "a stop that waits for its time-out and no longer": RUNNING
    + """
10  w0.1    worker  stop        -   timeout=5
10  w0.1    event   draining    -   timeout=5
15.000000000000002 w0.1 handler cancelled J
15.000000000000002 w0.1 stage end J now=ended
15.1 w0.1#1 say     job_status  J   status=FAILED error=worker_shut_down_before_the_job_ended
15.2 s:w0.1#1 hear  job_status  J   status=FAILED error=worker_shut_down_before_the_job_ended
15.2 w0.1   handler terminated  J
15.2 w0.1   event   job_ended   J   status=FAILED reason=worker_shut_down_before_the_job_ended
15.2 w0.1   worker  ended       -   elapsed=5.2 cut=["J"]
""",
    "a job that ends at the very deadline": RUNNING.replace("asked       J", "asked J do=return seconds=13.0")
    + """
10  w0.1    worker  stop        -   timeout=5
15  w0.1    handler returned    J
15  w0.1    stage   end         J   now=ended
15  w0.1#1  say     job_status  J   status=SUCCESS
15.1 s:w0.1#1 hear  job_status  J   status=SUCCESS
15.1 w0.1   handler terminated  J
15.1 w0.1   event   job_ended   J
15.2 w0.1   worker  ended       -   elapsed=5.2 drained=["J"]
""",
    "a stop made shorter": RUNNING
    + """
10  w0.1    worker  stop        -   timeout=60
10  w0.1    event   draining    -   timeout=60
12  w0.1    worker  stop        -   timeout=0
12  w0.1    handler cancelled   J
12  w0.1    stage   end         J   now=ended
12  w0.1    handler terminated  J
12  w0.1    event   job_ended   J   status=FAILED reason=worker_shut_down_before_the_job_ended
""",
    "clean-ups, the second failing": RUNNING.replace("asked       J", "asked J do=hang cleanup=0.5")
    + """
3   w0.1    worker  cancel      -
3   w0.1    handler cancelled   J
3   w0.1    handler cleanup     J   number=2
3.5 w0.1    handler cleaned     J   number=2
3.5 w0.1    handler cleanup     J   number=1
3.5 w0.1    handler cleanup     J   number=0
3.5 w0.1    handler cleaned     J   number=0
3.5 w0.1    stage   end         J   now=ended
3.5 w0.1    handler terminated  J
3.5 w0.1    event   job_ended   J   status=FAILED reason=worker_cancelled
3.6 w0.1    worker  ended       -   cancelled=true unproven=["J"]
""",
    "a stuck handler that ends while others see to its job": RUNNING.replace(
        "asked       J", "asked J do=stuck cleanup=0.5"
    )
    + """
3   w0.1    worker  cancel      -
3.5 w0.1    stage   end         J   now=ended
3.5 w0.1#1  say     job_status  J   status=FAILED error=handler_ignored_its_cancellation
3.6 w0.1    handler returned    J
4.5 w0.1    handler terminated  J
4.5 w0.1    event   job_ended   J   status=FAILED reason=handler_ignored_its_cancellation
4.5 w0.1    handler cleanup     J   number=2
4.5 w0.1    handler cleanup     J   number=1
4.5 w0.1    handler cleanup     J   number=0
4.6 w0.1    worker  ended       -   cancelled=true unproven=["J"]
""",
    "a job that begins when a Close is due which cannot be written": REGISTERED
    + """
1   w0.1#1  hear    offer       J
1   w0.1    handler asked       J
1   w0.1#1  say     answer      J   yes=true
1   w0.1    stage   accept      J   now=accepted
1.1 s:w0.1#1 hear   answer      J   yes=true
2   w0.1#1  hear    assignment  J
2   w0.1    stage   assign      J   now=assigned
2   w0.1#1  hear    go_away     -
2   world   room    entered     J
2   w0.1    stage   run         J   now=running
2   w0.1    handler started     J
3   w0.1    handler returned    J
3   w0.1    stage   end         J   now=ended
4   w0.1#1  closed  -           -
5   w0.1#2  say     register    -   agent=sim
5   w0.1#2  hear    registered  -
5   w0.1#2  say     job_status  J   status=SUCCESS
""",
    "pings, a Close and its answer": REGISTERED
    + """
5   s:w0.1#1 frame  ping        -
5.1 net     deliver down        -   connection=w0.1#1 kinds=["ping"]
5.1 w0.1#1  frame   pong        -
6   s:w0.1#1 frame  close       -
6.1 net     deliver down        -   connection=w0.1#1 kinds=["close"]
6.1 w0.1#1  closed  -           -
6.1 w0.1#1  frame   close       -
""",
    "what replays and hooks say": """
0   w0.1    worker  started     -
1   w0.1#1  token   -           -   seconds_left=599.0
2   w0.1#1  replay  twice       -
2   w0.1#1  replay  split       -
2   w0.1#1  refuses -           -   error=LocalProtocolError
2   w0.1#1  buffers -           -   inbound=100 outbox=100
3   w0.1    shield  runtime._job_end:JobEnd.take - seconds=2.0
4   w0.1    checkpoint publish_data -   honoured=true
5   world   census  -           -   tasks=20 orphans=0
6   net     inject  empty       -   connection=w0.1#1 harmless=true
6   w0.1#1  skip    unknown     -
7   world   lull    over        -   steps=100 seconds=30.0 workers=3 backend=trio
8   world   end     -           -
""",
    "backing off": """
0   w0.1    worker  started     -
0   w0.1    event   connection_lost -   retry_in=0.5
0.5 w0.1#2  dial    -           -
0.5 w0.1    event   connection_lost -   retry_in=1.0
1.5 w0.1#3  dial    -           -
1.5 w0.1    event   connection_lost -   retry_in=2.0
""",
    "a room that is back at the last instant, and is then given up at the first one after its time": RUNNING
    + f"""
2   world   room        broken      J
62  world   room        back        J
70  world   room        broken      J
{math.nextafter(130, 200)!r} w0.1 handler cancelled J
131 world   room        back        J
131 w0.1    event       job_ended   J   status=FAILED reason=connection_to_the_room_lost:_not_back_after_60_s
""",
    "a handler that returns just before the stop's deadline, and a task of its own that does not": RUNNING
    + f"""
2   w0.1    handler child       J
10  w0.1    worker  stop        -   timeout=5
15  w0.1    handler returned    J
{math.nextafter(15, 16)!r} w0.1 handler child~out J
{math.nextafter(15, 16)!r} w0.1 event job_ended J status=FAILED reason=worker_shut_down_before_the_job_ended
""",
}

BAD = {
    "W1": "0 w0.1#1 say ping -\n0 w0.1#1 say register - agent=sim",
    "W2": REGISTERED
    + """
1   w0.1#1  hear    offer       J
1   w0.1#1  say     answer      J   yes=false
1   w0.1#1  say     answer      J   yes=false
""",
    "W2 too late": REGISTERED
    + """
1   w0.1#1  hear    offer       J
4   net     deliver down        -   connection=w0.1#1
""",
    "W3": RUNNING.replace("started     -\n", "started     -   max_jobs=1\n", 1)
    + """
4   w0.1#1  hear    offer       K
4   w0.1#1  say     answer      K   yes=true
""",
    "W4": REGISTERED + "2 w0.1#1 hear assignment K\n2 w0.1 stage assign K now=assigned\n",
    "W4 not refused": REGISTERED + "2 w0.1#1 hear assignment K\n2 w0.1#1 say ping -\n",
    "W5": RUNNING + "4 w0.1#1 hear assignment J\n4 w0.1 handler started J\n",
    "W6": RUNNING.replace("2   w0.1    stage   assign", "9   w0.1    stage   assign"),
    "W7": RUNNING.replace("2   w0.1#1  say     job_status  J   status=RUNNING\n", "") + TERMINATED + ENDED,
    "W8": A_LIFE + "4 s:w0.1#1 hear job_status J status=FAILED\n",
    "W8 not proven though all is well": A_LIFE.replace("3.1 s:w0.1#1 hear   job_status  J   status=SUCCESS\n", "")
    + "8   world   act         converged   -\n"
    + GONE.replace("elapsed=0", 'elapsed=0 unproven=["J"]'),
    "W8 never heard": A_LIFE.replace("3.1 s:w0.1#1 hear   job_status  J   status=SUCCESS\n", "") + GONE,
    "W9": A_LIFE + "4 w0.1#1 say job_status J status=FAILED\n",
    "W10": A_LIFE + "4 w0.1#1 say job_status J status=RUNNING\n",
    "W11": RUNNING
    + """
5   w0.1#1  closed  -           -
5.1 w0.1#2  say     register    -   agent=sim
5.2 w0.1#2  hear    registered  -
5.2 w0.1#2  say     ping        -
""",
    "W12": REGISTERED
    + """
5   net     deliver down        -   connection=w0.1#1 kinds=["ping"]
16  net     deliver down        -   connection=w0.1#1
""",
    "W12 silence": REGISTERED + "1 net deliver down - connection=w0.1#1\n32 w0.1#1 closed - -\n",
    "W13": REGISTERED + "1 w0.1#1 say worker_status - load=1.5\n",
    "W13 full of nothing": REGISTERED + "1 w0.1#1 say worker_status - full=true\n",
    "W14": "1 w0.1#1 replay split - same=false",
    "W15": REGISTERED + "1 w0.1#1 closed - - error=AssertionError\n",
    "W15 takes more": REGISTERED + "1 w0.1#1 closed - -\n1 w0.1#1 say ping -\n",
    "W16": REGISTERED
    + "1 net inject empty - connection=w0.1#1 harmless=true\n2 w0.1#1 closed - - error=RemoteProtocolError\n",
    "W17": "1 w0.1#1 buffers - - inbound=99999999",
    "W18": REGISTERED + "1 w0.1#1 frame close -\n1 w0.1#1 frame ping -\n",
    "W18 unanswered": REGISTERED
    + """
1   s:w0.1#1 frame  close       -
1   net     deliver down        -   connection=w0.1#1 kinds=["close"]
2   net     broken  left        -   connection=w0.1#1 end=w0.1#1
""",
    "W19": "1 w0.1#1 replay twice - same=false",
    "W20": """
0   w0.1#1  say     register    -   agent=sim
0.1 s:w0.1#1 hear   register    -   agent=another
""",
    "W20 unstable": "1 w0.1#1 unstable offer -",
    "J1": RUNNING.replace("2   w0.1    handler started     J\n", "") + ENDED + GONE,
    "J2": RUNNING + TERMINATED + ENDED.replace("3   w0.1    handler", "3.5 w0.1    handler"),
    "J3": A_LIFE + "4 w0.1 handler terminated J\n",
    "J3 too early": RUNNING + "2.5 w0.1 handler terminated J\n",
    "J3 never": A_LIFE.replace("3.2 w0.1    handler terminated  J\n", "") + GONE,
    "J4": RUNNING.replace("asked       J", "asked J cleanup=0.5")
    + """
3   w0.1    handler cancelled   J
3   w0.1    handler cleanup     J   number=2
3   w0.1    handler terminated  J
3   w0.1    event   job_ended   J
""",
    "J4 stuck": RUNNING.replace("asked       J", "asked J do=stuck cleanup=0.5")
    + """
3.6 w0.1    handler returned    J
4.5 w0.1    event   job_ended   J   status=FAILED reason=handler_ignored_its_cancellation
4.5 w0.1    handler cleanup     J   number=2
""",
    "J5": RUNNING + "3 w0.1 handler cancelled J\n3 w0.1 event job_ended J status=FAILED reason=worker_cancelled\n",
    "J5 the worker": RUNNING + "3 w0.1 worker ended - error=ScriptedError\n",
    "J6": RUNNING.replace("started     -\n", "started     -   max_jobs=1\n", 1)
    + "4 w0.1#1 say answer K yes=true\n4 w0.1 stage accept K now=accepted\n",
    "J7": RUNNING + STOPPED + "9 w0.1 worker ended -\n",
    "J8": RUNNING
    + """
10  w0.1    worker  stop        -   timeout=5
12  w0.1    worker  stop        -   timeout=60
40  w0.1    handler cancelled   J
""",
    "J9": REGISTERED + STOPPED + "9 w0.1#1 hear offer J\n9 w0.1#1 say answer J yes=true\n",
    "J10": RUNNING
    + """
5   w0.1#1  closed  -           -
5   w0.1    handler cancelled   J
5   w0.1    event   job_ended   J   status=FAILED reason=worker_cancelled
""",
    "J11": REGISTERED + "1 w0.1#1 hear offer J\n1 w0.1 handler asked J request=raise\n1 w0.1#1 say answer J yes=true\n",
    "J12": RUNNING.replace("2   w0.1    handler started     J", "2   w0.1    handler started     J foreign=K"),
    "S1": "9 world end - - tasks_left=1",
    "S1 not converged": "9 world act not~converged",
    "S2": "5 world census - - tasks=20 orphans=1",
    "S3": RUNNING + ENDED,
    "S3 the room": RUNNING
    + """
2   world   room        broken      J
3   world   room        back        J
3   w0.1    handler     cancelled   J
3   w0.1    event       job_ended   J   status=FAILED reason=connection_to_the_room_lost:_not_back_after_60_s
""",
    "S4": RUNNING
    + """
3   w0.1    handler cancelled   J
3   w0.1    event   job_ended   J   status=FAILED reason=x leaves=["Cancelled"]
""",
    "S4 the worker": "0 w0.1 worker started -\n3 w0.1 worker cancel -\n4 w0.1 worker ended -\n",
    "S5": RUNNING.replace("asked       J", "asked J do=group")
    + '3 w0.1 handler raised J leaves=["one","two"]\n3 w0.1 event job_ended J status=FAILED reason=x leaves=["one"]\n',
    "S6": "0 w0.1 worker started -\n9 w0.1 shield runtime._job_end:JobEnd.take - seconds=100.0",
    "S6 unknown": "0 w0.1 worker started -\n9 w0.1 shield runtime._new:somewhere - seconds=0.0",
    "S7": RUNNING.replace("asked       J", "asked J do=hang cleanup=0.5")
    + """
3   w0.1    worker  cancel      -
3   w0.1    handler cancelled   J
3   w0.1    handler cleanup     J   number=2
3   w0.1    event   job_ended   J   status=FAILED reason=worker_cancelled
""",
    "S8": RUNNING
    + "2.5 net broken choke - connection=w0.1#1\n"
    + TERMINATED
    + ENDED.replace("3   w0.1    handler", "3.5 w0.1    handler"),
    "S9": "4 w0.1 checkpoint publish_data - honoured=false",
    "T1": RUNNING
    + """
10  w0.1    worker  stop        -   timeout=5
14  w0.1    handler cancelled   J
14  w0.1    event   job_ended   J   status=FAILED reason=worker_shut_down_before_the_job_ended
""",
    "T1 a task of the handler's own": RUNNING
    + """
2   w0.1    handler child       J
10  w0.1    worker  stop        -   timeout=5
12  w0.1    handler returned    J
14  w0.1    handler child~out   J
14  w0.1    event   job_ended   J   status=FAILED reason=worker_shut_down_before_the_job_ended
""",
    "T1 too long": REGISTERED + "10 w0.1 worker stop - timeout=5\n40 w0.1 worker ended - elapsed=30\n",
    "T2": "0 w0.1 event connection_lost - retry_in=0.6",
    "T2 reset too soon": """
0   w0.1    event   connection_lost -   retry_in=0.1
1   w0.1    event   registered  -
2   w0.1    event   connection_lost -   retry_in=0.1
3   w0.1    event   connection_lost -   retry_in=2.1
""",
    "T3": RUNNING.replace("asked       J", "asked J do=return seconds=5.0") + "3 w0.1 handler returned J\n",
    "T3 a room given up too soon": RUNNING
    + """
2   world   room        broken      J
61  w0.1    handler     cancelled   J
61  w0.1    event       job_ended   J   status=FAILED reason=connection_to_the_room_lost:_not_back_after_60_s
""",
    "T3 a room not given up": RUNNING + "2 world room broken J\n63 world room back J\n",
    "T4": "9 world lull over - steps=150 seconds=30.0 workers=3 backend=trio",
    "T5": "1 w0.1#1 token - - seconds_left=-5.0",
    "R1": """
1   world   media   opened      -   stream=PA/7
2   w0.1    media   unsubscribed -  stream=PA/7 received=5
3   w0.1    media   heard       J   stream=PA/7 received=6 read=6
""",
    "R2 swapped": '1 w0.1 media heard J stream=PA/7 frames=["1","3","2"] received=3 read=3',
    "R2 twice": '1 w0.1 media heard J stream=PA/7 frames=["1","1"] received=2 read=2',
    "R3 more than the queue holds": "1 w0.1 media heard J stream=PA/7 peak=9 capacity=8",
    "R3 lost without a word": "1 w0.1 media heard J stream=PA/7 received=5 read=3 dropped=1",
    "R4 twice": """
1   world   media   opened      -   stream=PA/7
2   world   media   closed      -   stream=PA/7
3   world   media   closed      -   stream=PA/7
""",
    "R4 never": "1 world media opened - stream=PA/7",
    "R4 what is none": "1 world media stray - stream=PA/7",
}


def test_the_invariants_are_w1_to_w20_j1_to_j12_s1_to_s9_t1_to_t5_and_r1_to_r4() -> None:
    letters = (("W", 20), ("J", 12), ("S", 9), ("T", 5), ("R", 4))
    wanted = [f"{letter}{n}" for letter, last in letters for n in range(1, last + 1)]
    assert [checker.name for checker in CHECKERS] == wanted


def test_each_promise_is_a_sentence() -> None:
    for checker in CHECKERS:
        assert checker.__doc__, checker.name
        assert checker.__doc__.strip().split("\n\n")[0].endswith("."), checker.name


def test_each_invariant_has_a_trace_that_breaks_it() -> None:
    assert {name.split()[0] for name in BAD} == {checker.name for checker in CHECKERS}


@pytest.mark.parametrize("title", GOOD)
def test_a_trace_that_keeps_every_promise(title: str) -> None:
    assert judged(GOOD[title]).violations == []


def test_each_invariant_was_evaluated_by_a_trace_that_keeps_it() -> None:
    counts = {checker.name: 0 for checker in CHECKERS}
    for dialogue in GOOD.values():
        for checker in judged(dialogue).checkers:
            counts[checker.name] += checker.evaluated
    assert [name for name, count in counts.items() if not count] == []


@pytest.mark.parametrize("title", BAD)
def test_a_trace_that_breaks_a_promise(title: str) -> None:
    jury = judged(BAD[title])
    assert title.split()[0] in {violation.name for violation in jury.violations}


def test_a_violation_says_what_was_promised_what_happened_and_what_came_before() -> None:
    (violation,) = judged(BAD["T5"]).violations
    assert violation.promise.startswith("Each connection shows a fresh token")
    assert violation.what == "w0.1#1 shows a token that is valid for -5 s"
    assert violation.t == 1.0
    assert violation.tail[-1].endswith('"what":"token","seconds_left":-5.0}')
