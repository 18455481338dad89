"""What may be a handler, what may not, and what reaches which function with which arguments.

Goal: each of the twelve callbacks works in each form people write it in; whatever cannot work is said when it is
written, not when it is missed.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

import anyio
import pytest

from livekit_agent import (
    BaseHandler,
    ConnectionQuality,
    HandlerDefinitionError,
    Job,
    JobMetadata,
    JobType,
    Reject,
    RoomInfo,
    SimpleUniversalHandler,
    UniversalWorker,
    events,
)
from livekit_agent.handlers import ROOM_CALLBACKS, ask, check_handler, room_callbacks

# The reference's signatures behind ctx, written out by hand: the table under test is not asked about itself.
REFERENCE: dict[str, tuple[str, ...]] = {
    "on_participant_joined": ("participant",),
    "on_participant_left": ("participant",),
    "on_track_published": ("publication", "participant"),
    "on_track_unpublished": ("publication", "participant"),
    "on_track_subscribed": ("track", "publication", "participant"),
    "on_track_unsubscribed": ("track", "publication", "participant"),
    "on_data_received": ("data", "participant"),
    "on_speaking_changed": ("participant", "speaking"),
    "on_connection_quality_changed": ("participant", "quality"),
}
JOB_CALLBACKS = {"on_job_request": ("job",), "on_job_assigned": ("ctx",), "on_job_terminated": ("job_id",)}

CTX: Any = object()
WORDS: dict[str, Any] = {
    "participant": "a participant",
    "publication": "a publication",
    "track": "a track",
    "data": b"data",
    "speaking": True,
    "quality": ConnectionQuality.GOOD,
}
EVENT_OF = {callback.method: getattr(events, name) for name, callback in ROOM_CALLBACKS.items()}

a_callback = pytest.mark.parametrize("name", list(REFERENCE))


def a_job(job_id: str = "AJ_1") -> Job:
    return Job(id=job_id, type=JobType.ROOM, room=RoomInfo(name="room", sid="RM_1"))


def event_for(name: str) -> Any:
    return EVENT_OF[name](**{word: WORDS[word] for word in REFERENCE[name]})


def expected(name: str) -> tuple[Any, ...]:
    return (CTX, *(WORDS[word] for word in REFERENCE[name]))


class Heard:
    """A function that remembers its arguments, in every form people write one in."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def plain(self, *args: Any) -> None:
        self.calls.append(args)

    async def coroutine(self, *args: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.append(args)

    def with_a_result(self, *args: Any) -> int:
        self.calls.append(args)
        return len(self.calls)

    def form(self, form: str) -> Callable[..., Any]:
        heard = self

        class Sync:
            def __call__(self, *args: Any) -> None:
                heard.plain(*args)

        class Async:
            async def __call__(self, *args: Any) -> None:
                await heard.coroutine(*args)

        @functools.wraps(self.coroutine)
        def wrapped(*args: Any) -> Any:
            return self.coroutine(*args)

        forms: dict[str, Callable[..., Any]] = {
            "plain": self.plain,
            "with a result": self.with_a_result,
            "coroutine": self.coroutine,
            "partial": functools.partial(self.plain),
            "partial coroutine": functools.partial(self.coroutine),
            "lambda": lambda *args: self.calls.append(args),
            "lambda coroutine": lambda *args: self.coroutine(*args),
            "callable object": Sync(),
            "async callable object": Async(),
            "wrapped coroutine": wrapped,
        }
        return forms[form]


FORMS = (
    "plain",
    "with a result",
    "coroutine",
    "partial",
    "partial coroutine",
    "lambda",
    "lambda coroutine",
    "callable object",
    "async callable object",
    "wrapped coroutine",
)
in_every_form = pytest.mark.parametrize("form", FORMS)


async def deliver(handler: object, event: Any) -> None:
    """As the worker's pump does."""
    pending = room_callbacks(handler)[type(event)](CTX, event)
    if pending is not None:
        await pending


# --------------------------------------------------------------------------------------------------- signatures


def test_the_callbacks_are_the_references_twelve_with_its_arguments_in_its_order() -> None:
    declared = {
        name: tuple(inspect.signature(method).parameters)[1:]
        for name, method in vars(BaseHandler).items()
        if name.startswith("on_")
    }
    assert declared == JOB_CALLBACKS | {name: ("ctx", *words) for name, words in REFERENCE.items()}


def test_the_keywords_are_the_same_twelve() -> None:
    keywords = tuple(inspect.signature(SimpleUniversalHandler).parameters)
    assert keywords == tuple(name.removeprefix("on_") for name in (*JOB_CALLBACKS, *REFERENCE))


@a_callback
@in_every_form
async def test_a_callback_given_as_a_keyword_gets_the_references_arguments(name: str, form: str) -> None:
    heard = Heard()
    keywords: dict[str, Any] = {name.removeprefix("on_"): heard.form(form)}
    await deliver(SimpleUniversalHandler(**keywords), event_for(name))
    assert heard.calls == [expected(name)]


@a_callback
async def test_a_callback_given_by_decorator_gets_them_and_stays_a_function(name: str) -> None:
    heard = Heard()
    handler = SimpleUniversalHandler()

    @handler.on(EVENT_OF[name])
    async def callback(*args: Any) -> None:
        await heard.coroutine(*args)

    await deliver(handler, event_for(name))
    await callback("called", "by itself")
    assert heard.calls == [expected(name), ("called", "by itself")]


@a_callback
@pytest.mark.parametrize("form", ["plain", "coroutine"])
async def test_a_method_of_a_handler_class_gets_them(name: str, form: str) -> None:
    heard = Heard()

    async def coroutine(self: Any, *args: Any) -> None:
        await heard.coroutine(*args)

    def plain(self: Any, *args: Any) -> None:
        heard.plain(*args)

    handler = type("Handler", (BaseHandler,), {name: coroutine if form == "coroutine" else plain})()
    await deliver(handler, event_for(name))
    assert heard.calls == [expected(name)]


async def test_any_other_room_event_gives_context_and_event() -> None:
    heard = Heard()
    handler = SimpleUniversalHandler()
    handler.on(events.Reconnecting)(heard.plain)
    event = events.Reconnecting()
    await deliver(handler, event)
    assert heard.calls == [(CTX, event)]


# -------------------------------------------------------------------------------------------- the job's callbacks


@in_every_form
async def test_job_assigned_and_job_terminated_in_every_form(form: str) -> None:
    assigned, terminated = Heard(), Heard()
    handler = SimpleUniversalHandler(job_assigned=assigned.form(form), job_terminated=terminated.form(form))
    await handler.on_job_assigned(CTX)
    await handler.on_job_terminated("AJ_1")
    assert (assigned.calls, terminated.calls) == ([(CTX,)], [("AJ_1",)])


@in_every_form
async def test_job_request_in_every_form_is_asked_once(form: str) -> None:
    heard = Heard()
    function = heard.form(form)
    if form == "with a result":
        with pytest.raises(HandlerDefinitionError, match="returned int"):
            await ask(SimpleUniversalHandler(job_request=function), a_job())
    else:
        assert await ask(SimpleUniversalHandler(job_request=function), a_job()) == Reject()  # None declines
    assert heard.calls == [(a_job(),)]


async def test_the_three_by_decorator() -> None:
    handler = SimpleUniversalHandler()
    heard = Heard()

    @handler.job_request
    def request(job: Job) -> bool:
        return job.id == "AJ_1"

    @handler.job_assigned
    async def assigned(ctx: Any) -> None:
        await heard.coroutine(ctx)

    @handler.job_terminated
    def terminated(job_id: str) -> None:
        heard.plain(job_id)

    assert request(a_job())  # still a function
    assert await ask(handler, a_job()) == JobMetadata()
    assert await ask(handler, a_job("AJ_2")) == Reject()
    await handler.on_job_assigned(CTX)
    await handler.on_job_terminated("AJ_1")
    assert heard.calls == [(CTX,), ("AJ_1",)]


METADATA = JobMetadata(participant_name="me")


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        (METADATA, METADATA),
        (True, JobMetadata()),
        (False, Reject()),
        (None, Reject()),
        (Reject(reason="busy", terminate=True), Reject(reason="busy", terminate=True)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_answers_to_an_offer(answer: Any, means: Any, asynchronous: bool) -> None:
    async def coroutine(job: Job) -> Any:
        return answer

    function = coroutine if asynchronous else (lambda job: answer)
    assert await ask(SimpleUniversalHandler(job_request=function), a_job()) == means
    handler = type("Handler", (BaseHandler,), {"on_job_request": staticmethod(function)})()
    assert await ask(handler, a_job()) == means


@pytest.mark.parametrize(
    "answer", ["yes", 1, 0, 1.0, {}, [], object(), JobMetadata, Reject], ids=lambda a: str(type(a))
)
async def test_any_other_answer_is_an_error_that_says_what_to_return(answer: Any) -> None:
    with pytest.raises(HandlerDefinitionError, match="on_job_request returned") as caught:
        await ask(SimpleUniversalHandler(job_request=lambda job: answer), a_job())
    assert "JobMetadata or True" in caught.value.hint


async def test_an_error_in_job_request_is_the_handlers_own() -> None:
    def broken(job: Job) -> bool:
        raise LookupError("no such customer")

    with pytest.raises(LookupError, match="no such customer"):
        await ask(SimpleUniversalHandler(job_request=broken), a_job())


async def test_a_plain_job_request_runs_in_a_thread_and_a_coroutine_in_the_loop() -> None:
    threads: list[threading.Thread] = []

    def plain(job: Job) -> bool:
        threads.append(threading.current_thread())
        return True

    async def coroutine(job: Job) -> bool:
        return plain(job)

    here = threading.current_thread()
    await ask(SimpleUniversalHandler(job_request=plain), a_job())
    await ask(SimpleUniversalHandler(job_request=coroutine), a_job())
    assert threads[0] is not here
    assert threads[1] is here


async def test_what_a_plain_job_request_raises_is_raised_and_it_sees_the_context_of_who_asks() -> None:
    who: ContextVar[str] = ContextVar("who")

    def plain(job: Job) -> bool:
        who_asks = who.get()
        who.set("the thread")
        raise LookupError(who_asks)

    who.set("the test")
    with pytest.raises(LookupError, match="the test"):
        await ask(SimpleUniversalHandler(job_request=plain), a_job())
    assert who.get() == "the test"


async def test_a_blocked_plain_job_request_is_abandoned_when_the_offer_ends() -> None:
    blocked, release = threading.Event(), threading.Event()

    def plain(job: Job) -> bool:
        blocked.set()
        return release.wait(10)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, SimpleUniversalHandler(job_request=plain), a_job())
            await anyio.to_thread.run_sync(blocked.wait, 5)
            tasks.cancel_scope.cancel()
    release.set()


def test_plain_job_requests_work_in_one_event_loop_after_the_other(backend: str) -> None:
    """Threads are limited by something that belongs to a loop: each loop needs its own."""
    handler = SimpleUniversalHandler(job_request=lambda job: True)
    for name in (backend, "trio", "asyncio", backend):
        assert anyio.run(ask, handler, a_job(), backend=name) == JobMetadata()


@pytest.mark.virtual
async def test_without_job_assigned_a_job_lasts_until_it_is_ended_from_outside() -> None:
    for handler in (SimpleUniversalHandler(), BaseHandler()):
        with anyio.move_on_after(1_000_000) as scope:
            await handler.on_job_assigned(CTX)
        assert scope.cancelled_caught
        assert await ask(handler, a_job()) == JobMetadata()
        await handler.on_job_terminated("AJ_1")


# ---------------------------------------------------------------------------------------- which callbacks are set


def test_a_handler_without_callbacks_has_none() -> None:
    assert room_callbacks(BaseHandler()) == {}
    assert room_callbacks(SimpleUniversalHandler()) == {}
    assert room_callbacks(type("Empty", (BaseHandler,), {})()) == {}


async def nothing(*args: Any) -> None:
    """A callback."""


@a_callback
def test_overrides_are_found_wherever_they_come_from(name: str) -> None:
    event = EVENT_OF[name]
    override = {name: nothing}
    mixin = type("Mixin", (), override)
    parent = type("Parent", (BaseHandler,), override)
    instance = BaseHandler()
    setattr(instance, name, nothing)
    for handler in (
        parent(),
        type("Child", (parent,), {})(),
        type("Mixed", (mixin, BaseHandler), {})(),
        type("Simple", (SimpleUniversalHandler,), override)(),
        instance,
    ):
        assert list(room_callbacks(handler)) == [event]


@a_callback
def test_a_mixin_behind_the_base_class_overrides_nothing(name: str) -> None:
    mixin = type("Mixin", (), {name: nothing})
    assert room_callbacks(type("Mixed", (BaseHandler, mixin), {})()) == {}


def test_an_override_that_is_the_default_again_is_none() -> None:
    class Handler(BaseHandler):
        on_data_received = BaseHandler.on_data_received

    assert room_callbacks(Handler()) == {}


async def test_a_handler_needs_no_base_class() -> None:
    heard = Heard()

    class Free:
        async def on_job_request(self, job: Job) -> bool:
            return True

        async def on_job_assigned(self, ctx: Any) -> None: ...

        async def on_job_terminated(self, job_id: str) -> None: ...

        def on_data_received(self, *args: Any) -> None:
            heard.plain(*args)

        def on_the_phone(self) -> None:
            """Not a callback; without the base class nobody said that it should be."""

    check_handler(Free())
    await deliver(Free(), event_for("on_data_received"))
    assert heard.calls == [expected("on_data_received")]
    assert await ask(cast("Any", Free()), a_job()) == JobMetadata()


# ------------------------------------------------------------------------------------------------ what is refused


def worker_of(handler: Any) -> UniversalWorker:
    return UniversalWorker("ws://localhost", "key", "secret", handler)


def test_an_unknown_on_method_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(HandlerDefinitionError, match=r"Handler\.on_participant_join is not") as caught:

        class Handler(BaseHandler):
            async def on_participant_join(self, ctx: Any, participant: Any) -> None: ...

    assert "on_participant_joined" in caught.value.hint


def test_an_unknown_on_method_of_a_mixin_or_a_simple_handler_is_refused_as_well() -> None:
    class Mixin:
        def on_data(self, *args: Any) -> None: ...

    with pytest.raises(HandlerDefinitionError, match="on_data is not a handler callback"):
        type("Mixed", (Mixin, BaseHandler), {})
    with pytest.raises(HandlerDefinitionError, match="on_data is not a handler callback"):
        type("Simple", (SimpleUniversalHandler,), {"on_data": nothing})


def test_data_whose_name_begins_with_on_is_nobodys_callback() -> None:
    class Handler(BaseHandler):
        on_call = ("alice", "bob")

    worker_of(Handler())


def test_an_unknown_callback_set_on_an_instance_is_refused_by_the_worker() -> None:
    handler = SimpleUniversalHandler()
    handler.on_data = nothing  # type: ignore[attr-defined]
    with pytest.raises(HandlerDefinitionError, match="on_data is not a handler callback"):
        worker_of(handler)


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(HandlerDefinitionError, match="on_data_received is int, not a function"):
        type("Handler", (BaseHandler,), {"on_data_received": 5})
    for keyword in inspect.signature(SimpleUniversalHandler).parameters:
        with pytest.raises(HandlerDefinitionError, match=f"{keyword} is int, not a function"):
            SimpleUniversalHandler(**cast("dict[str, Any]", {keyword: 5}))


async def generator(*args: Any) -> Any:
    """What one writes by mistake: calling it runs nothing."""
    yield args


def test_an_async_generator_is_refused_because_nobody_would_run_it() -> None:
    for name in (*JOB_CALLBACKS, *REFERENCE):
        with pytest.raises(HandlerDefinitionError, match="async generator") as caught:
            SimpleUniversalHandler(**cast("dict[str, Any]", {name.removeprefix("on_"): generator}))
        assert "yield" in caught.value.hint
        with pytest.raises(HandlerDefinitionError, match=f"{name} is an async generator"):
            worker_of(type("Handler", (BaseHandler,), {name: generator})())


def test_a_class_instead_of_an_instance_is_refused_with_the_pair_of_parentheses() -> None:
    class Handler(BaseHandler): ...

    with pytest.raises(HandlerDefinitionError, match="Handler is a class") as caught:
        worker_of(Handler)
    assert caught.value.hint == "pass an instance: Handler()"


@pytest.mark.parametrize("handler", [None, object(), 5, nothing], ids=["None", "object", "int", "function"])
def test_what_has_not_the_three_methods_is_no_handler(handler: Any) -> None:
    with pytest.raises(HandlerDefinitionError, match="has no method on_job_request") as caught:
        worker_of(handler)
    assert "BaseHandler" in caught.value.hint


@pytest.mark.parametrize("missing", list(JOB_CALLBACKS))
def test_each_of_the_three_is_needed(missing: str) -> None:
    members = {name: nothing for name in JOB_CALLBACKS if name != missing}
    with pytest.raises(HandlerDefinitionError, match=f"has no method {missing}"):
        worker_of(type("Free", (), members)())
    with pytest.raises(HandlerDefinitionError, match=f"has no method {missing}"):
        worker_of(type("Free", (), {**members, missing: None})())


@pytest.mark.parametrize("name", [*JOB_CALLBACKS, *REFERENCE])
def test_a_function_set_twice_is_refused(name: str) -> None:
    keyword = name.removeprefix("on_")
    handler = SimpleUniversalHandler(**cast("dict[str, Any]", {keyword: nothing}))
    decorator = handler.on(EVENT_OF[name]) if name in EVENT_OF else getattr(handler, keyword)
    with pytest.raises(HandlerDefinitionError, match=f"{keyword} is set twice"):
        decorator(nothing)


@a_callback
def test_a_method_and_a_keyword_for_the_same_event_are_two_as_well(name: str) -> None:
    subclass = type("Simple", (SimpleUniversalHandler,), {name: nothing})
    with pytest.raises(HandlerDefinitionError, match=f"{name} is set twice"):
        worker_of(subclass(**{name.removeprefix("on_"): nothing}))


@pytest.mark.parametrize(
    "event",
    [events.RoomEvent, events.Registered, events.JobEnded, str, "DataReceived", None, events.Reconnected()],
    ids=str,
)
def test_on_takes_one_kind_of_room_event_and_nothing_else(event: Any) -> None:
    with pytest.raises(HandlerDefinitionError, match="is not one kind of room event") as caught:
        SimpleUniversalHandler().on(event)
    assert "DataReceived" in caught.value.hint


def takes(count: int) -> Callable[..., Any]:
    """A function of so many arguments."""
    found: Callable[..., Any] = eval(f"lambda {', '.join('abcde'[:count])}: None")
    return found


@pytest.mark.parametrize("name", [*JOB_CALLBACKS, *REFERENCE])
def test_a_function_that_cannot_take_its_arguments_is_refused_when_it_is_given(name: str) -> None:
    keyword, words = name.removeprefix("on_"), JOB_CALLBACKS.get(name) or ("ctx", *REFERENCE[name])
    called = ", ".join(words)
    for wrong in (takes(len(words) - 1), functools.partial(takes(len(words)), "one already")):
        handler = SimpleUniversalHandler()
        decorator = handler.on(EVENT_OF[name]) if name in EVENT_OF else getattr(handler, keyword)
        with pytest.raises(HandlerDefinitionError, match=rf"{keyword} is called with \({called}\)") as caught:
            decorator(wrong)
        assert caught.value.hint == f"its parameters are ({called}), under any names"
        with pytest.raises(HandlerDefinitionError, match=f"{keyword} is called with"):
            SimpleUniversalHandler(**cast("dict[str, Any]", {keyword: wrong}))
    with pytest.raises(HandlerDefinitionError, match=rf"Handler\.{name} is called with \({called}\)"):
        worker_of(type("Handler", (BaseHandler,), {name: takes(len(words))})())  # self takes the place of the last
    worker_of(type("Handler", (BaseHandler,), {name: takes(len(words) + 1)})())


def test_a_function_for_any_other_room_event_takes_context_and_event() -> None:
    handler = SimpleUniversalHandler()
    with pytest.raises(HandlerDefinitionError) as caught:

        @handler.on(events.Reconnected)
        async def back(ctx: Any) -> None: ...

    assert caught.value.message == "Reconnected is called with (ctx, event), and back takes (ctx)"
    handler.on(events.Reconnected)(takes(2))


def test_a_wrapper_that_supplies_an_argument_of_its_own_is_taken_as_it_is_called() -> None:
    def with_database(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args, "a database")

        return wrapper

    @with_database
    def serve(ctx: Any, database: str) -> None: ...

    worker_of(SimpleUniversalHandler(job_assigned=serve))
