"""What a user writes: a class with three methods, a subclass of :class:`BaseHandler`, or callbacks on an object.

Three methods make a handler (:class:`UniversalHandler`); nine more, all optional, hear what happens in the job's room.
``ROOM_CALLBACKS`` is the one table that ties each of the nine to its event and its arguments; it names the events, so
that a handler without such callbacks does not load them.

Synchronous callbacks are allowed everywhere.  A synchronous ``job_request`` runs in a worker thread, because an offer
must be answered within 2.5 s whatever else the loop does, and because people look things up there; it is abandoned when
the offer ends.  Other synchronous callbacks run on the event loop and must not block.  Layer 3.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import anyio
from anyio.lowlevel import RunVar

from . import events
from ._bounds import SYNC_REQUEST_THREADS_MAX
from ._errors import HandlerDefinitionError
from ._types import NO_METADATA, ConnectionQuality, Job, JobMetadata, Reject

if TYPE_CHECKING:
    from .context import JobContext
    from .rooms import Participant, RemoteParticipant, RemoteTrack, RemoteTrackPublication

__all__ = [
    "ROOM_CALLBACKS",
    "Answer",
    "BaseHandler",
    "RoomCallback",
    "SimpleUniversalHandler",
    "UniversalHandler",
    "ask",
    "check_handler",
    "hears_ends",
    "room_callbacks",
    "wait_until_ended",
]

#: What an offer may be answered with: metadata or True accept; None, False or Reject decline.
Answer = JobMetadata | Reject | bool | None

Maybe = Awaitable[None] | None
F = TypeVar("F", bound=Callable[..., Any])


class UniversalHandler(Protocol):
    """What a worker needs of a handler.  Structural: no base class is required."""

    async def on_job_request(self, job: Job) -> Answer:
        """Whether to take ``job``.  Cancelled, and the offer declined, after 2.5 s; an exception declines."""
        ...

    async def on_job_assigned(self, ctx: JobContext) -> None:
        """Do the job.  Its room is joined.  Returning ends it SUCCESS, raising FAILED.

        Cancelled when the job has to end; ``ctx.shutting_down`` is the polite warning before a drain's deadline.
        """
        ...

    async def on_job_terminated(self, job_id: str) -> None:
        """A job that was assigned is over, however it ended: exactly once per job, after its tasks have ended."""
        ...


async def wait_until_ended() -> None:
    """Wait until the job is ended from outside: what a handler without ``on_job_assigned`` does."""
    await anyio.sleep_forever()


class BaseHandler:
    """All twelve callbacks with defaults: take every job, do nothing until it is ended from outside.

    A method named ``on_…`` that is not one of the twelve, the class's own or a mixin's, raises
    :class:`HandlerDefinitionError` when the class is made: a misspelt callback would otherwise never be called and
    never be missed.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(cls):
            if name.startswith("on_"):
                _check_callback(cls.__qualname__, name, getattr(cls, name))

    async def on_job_request(self, job: Job) -> Answer:
        """Take every job."""
        return True

    async def on_job_assigned(self, ctx: JobContext) -> None:
        """Wait until the job is ended from outside."""
        await wait_until_ended()

    async def on_job_terminated(self, job_id: str) -> None:
        """Do nothing."""

    async def on_participant_joined(self, ctx: JobContext, participant: RemoteParticipant) -> None:
        """Somebody is in the room; those who were there before the agent come first."""

    async def on_participant_left(self, ctx: JobContext, participant: RemoteParticipant) -> None:
        """Somebody left the room."""

    async def on_track_published(
        self, ctx: JobContext, publication: RemoteTrackPublication, participant: RemoteParticipant
    ) -> None:
        """A track can be subscribed to."""

    async def on_track_unpublished(
        self, ctx: JobContext, publication: RemoteTrackPublication, participant: RemoteParticipant
    ) -> None:
        """A track is gone."""

    async def on_track_subscribed(
        self,
        ctx: JobContext,
        track: RemoteTrack,
        publication: RemoteTrackPublication,
        participant: RemoteParticipant,
    ) -> None:
        """A track's media arrives."""

    async def on_track_unsubscribed(
        self,
        ctx: JobContext,
        track: RemoteTrack,
        publication: RemoteTrackPublication,
        participant: RemoteParticipant,
    ) -> None:
        """A track's media no longer arrives."""

    async def on_data_received(self, ctx: JobContext, data: bytes, participant: RemoteParticipant | None) -> None:
        """A data packet came.

        ``participant`` is None for data that the server sent, and of somebody whom it has not announced yet: the event
        (:class:`~livekit_agent.events.DataReceived`) has the ``identity`` then, and the topic.
        """

    async def on_speaking_changed(self, ctx: JobContext, participant: RemoteParticipant, speaking: bool) -> None:
        """Somebody began or ceased to speak."""

    async def on_connection_quality_changed(
        self, ctx: JobContext, participant: Participant, quality: ConnectionQuality
    ) -> None:
        """The server judges somebody's link anew."""


class RoomCallback(NamedTuple):
    """How one kind of room event reaches a handler."""

    method: str
    """The method of a handler class; without ``on_`` the keyword of :class:`SimpleUniversalHandler`."""
    parameters: tuple[str, ...]
    """The arguments behind ``ctx``: fields of the event."""

    def arguments(self, event: events.RoomEvent) -> tuple[Any, ...]:
        """The arguments behind ``ctx``."""
        return tuple(getattr(event, name) for name in self.parameters)


ROOM_CALLBACKS: Mapping[str, RoomCallback] = {
    "ParticipantJoined": RoomCallback("on_participant_joined", ("participant",)),
    "ParticipantLeft": RoomCallback("on_participant_left", ("participant",)),
    "TrackPublished": RoomCallback("on_track_published", ("publication", "participant")),
    "TrackUnpublished": RoomCallback("on_track_unpublished", ("publication", "participant")),
    "TrackSubscribed": RoomCallback("on_track_subscribed", ("track", "publication", "participant")),
    "TrackUnsubscribed": RoomCallback("on_track_unsubscribed", ("track", "publication", "participant")),
    "DataReceived": RoomCallback("on_data_received", ("data", "participant")),
    "SpeakingChanged": RoomCallback("on_speaking_changed", ("participant", "speaking")),
    "ConnectionQualityChanged": RoomCallback("on_connection_quality_changed", ("participant", "quality")),
}


def _event(name: str) -> type[events.RoomEvent]:
    return cast("type[events.RoomEvent]", getattr(events, name))


def _callback_of(event: type[events.RoomEvent]) -> RoomCallback | None:
    callback = ROOM_CALLBACKS.get(event.__name__)
    return callback if callback is not None and event is _event(event.__name__) else None


_JOB_CALLBACKS = ("on_job_request", "on_job_assigned", "on_job_terminated")

#: What each callback is called with.
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    **dict(zip(_JOB_CALLBACKS, (("job",), ("ctx",), ("job_id",)), strict=True)),
    **{callback.method: ("ctx", *callback.parameters) for callback in ROOM_CALLBACKS.values()},
}
_ALL_CALLBACKS = tuple(_ARGUMENTS)


def _check_callback(owner: str, name: str, value: object) -> None:
    if name not in _ALL_CALLBACKS:
        if callable(value):
            raise HandlerDefinitionError(
                f"{owner}.{name} is not a handler callback",
                hint=f"the callbacks are {', '.join(sorted(_ALL_CALLBACKS))}; name a helper without the on_ prefix",
            )
    elif not callable(value):
        raise HandlerDefinitionError(f"{owner}.{name} is {type(value).__name__}, not a function")


#: A callback as the worker calls it: with the context and the event.
Deliver = Callable[["JobContext", Any], Maybe]


class SimpleUniversalHandler(BaseHandler):
    """A handler made of functions, given as keywords or by decorators; sync or async.

    ::

        handler = SimpleUniversalHandler()

        @handler.job_assigned
        async def run(ctx): ...

        @handler.on(events.DataReceived)
        async def data(ctx, data, participant): ...

    A function under ``on`` for one of the nine callbacks takes that callback's arguments; for any other room event it
    takes the context and the event.
    """

    def __init__(
        self,
        *,
        job_request: Callable[[Job], Answer | Awaitable[Answer]] | None = None,
        job_assigned: Callable[[JobContext], Maybe] | None = None,
        job_terminated: Callable[[str], Maybe] | None = None,
        participant_joined: Callable[[JobContext, RemoteParticipant], Maybe] | None = None,
        participant_left: Callable[[JobContext, RemoteParticipant], Maybe] | None = None,
        track_published: Callable[[JobContext, RemoteTrackPublication, RemoteParticipant], Maybe] | None = None,
        track_unpublished: Callable[[JobContext, RemoteTrackPublication, RemoteParticipant], Maybe] | None = None,
        track_subscribed: Callable[[JobContext, RemoteTrack, RemoteTrackPublication, RemoteParticipant], Maybe]
        | None = None,
        track_unsubscribed: Callable[[JobContext, RemoteTrack, RemoteTrackPublication, RemoteParticipant], Maybe]
        | None = None,
        data_received: Callable[[JobContext, bytes, RemoteParticipant | None], Maybe] | None = None,
        speaking_changed: Callable[[JobContext, RemoteParticipant, bool], Maybe] | None = None,
        connection_quality_changed: Callable[[JobContext, Participant, ConnectionQuality], Maybe] | None = None,
    ) -> None:
        self._job_request = _callable("job_request", _ARGUMENTS["on_job_request"], job_request)
        self._job_assigned = _callable("job_assigned", _ARGUMENTS["on_job_assigned"], job_assigned)
        self._job_terminated = _callable("job_terminated", _ARGUMENTS["on_job_terminated"], job_terminated)
        self._on: dict[type[events.RoomEvent], Callable[..., Maybe]] = {}
        given = locals()
        for name, callback in ROOM_CALLBACKS.items():
            function = given[callback.method.removeprefix("on_")]
            if function is not None:
                self.on(_event(name))(function)

    # A decorator returns the function unchanged, so that it can still be called and tested by itself.

    def job_request(self, function: F) -> F:
        """Decorator: answers offers."""
        self._job_request = _once("job_request", _ARGUMENTS["on_job_request"], self._job_request, function)
        return function

    def job_assigned(self, function: F) -> F:
        """Decorator: does jobs."""
        self._job_assigned = _once("job_assigned", _ARGUMENTS["on_job_assigned"], self._job_assigned, function)
        return function

    def job_terminated(self, function: F) -> F:
        """Decorator: hears that a job is over."""
        self._job_terminated = _once("job_terminated", _ARGUMENTS["on_job_terminated"], self._job_terminated, function)
        return function

    def on(self, event: type[events.RoomEvent]) -> Callable[[F], F]:
        """Decorator: hears one kind of room event."""
        given: Any = event  # the annotation is a promise of the caller's
        # RoomEvent itself is every event: no callback's signature fits them all.
        if not (inspect.isclass(given) and issubclass(given, events.RoomEvent) and given is not events.RoomEvent):
            raise HandlerDefinitionError(
                f"{getattr(given, '__name__', repr(given))} is not one kind of room event",
                hint="use a class from livekit_agent.events, such as DataReceived; ctx.events() gives all of them",
            )
        known = _callback_of(event)
        name = event.__name__ if known is None else known.method.removeprefix("on_")
        arguments = ("ctx", "event") if known is None else _ARGUMENTS[known.method]

        def register(function: F) -> F:
            self._on[event] = _once(name, arguments, self._on.get(event), function)
            return function

        return register

    def room_deliveries(self) -> dict[type[events.RoomEvent], Deliver]:
        """The room callbacks that are set, as the worker calls them."""
        return {event: _deliver(event, function) for event, function in self._on.items()}

    async def on_job_request(self, job: Job) -> Answer:
        """Ask the ``job_request`` function; without one, take every job."""
        return True if self._job_request is None else cast("Answer", await _call_request(self._job_request, job))

    async def on_job_assigned(self, ctx: JobContext) -> None:
        """Run the ``job_assigned`` function; without one, wait until the job is ended from outside."""
        if self._job_assigned is None:
            await wait_until_ended()
        else:
            await _finish(self._job_assigned(ctx))

    async def on_job_terminated(self, job_id: str) -> None:
        """Call the ``job_terminated`` function."""
        if self._job_terminated is not None:
            await _finish(self._job_terminated(job_id))


# ------------------------------------------------------------------------------------ for the runtime


def check_handler(handler: object) -> None:
    """Raise :class:`HandlerDefinitionError` unless ``handler`` has the three methods and sound callbacks."""
    if inspect.isclass(handler):
        raise HandlerDefinitionError(f"{handler.__name__} is a class", hint=f"pass an instance: {handler.__name__}()")
    kind = type(handler).__name__
    for name in _JOB_CALLBACKS:
        if not callable(getattr(handler, name, None)):
            raise HandlerDefinitionError(
                f"{kind} has no method {name}", hint="subclass BaseHandler to write only the methods you need"
            )
    if isinstance(handler, BaseHandler):
        # What the class did not show: callbacks set on the instance.
        for name, value in vars(handler).items():
            if name.startswith("on_"):
                _check_callback(kind, name, value)
    for name, arguments in _ARGUMENTS.items():
        method = getattr(handler, name, None)
        if inspect.isasyncgenfunction(method):
            raise _is_generator(f"{kind}.{name}")
        if callable(method):
            _check_arguments(f"{kind}.{name}", arguments, method)


def _check_arguments(name: str, arguments: tuple[str, ...], function: Callable[..., Any]) -> None:
    """Whether ``function`` can be called with these: told now, not when the first job fails by it."""
    try:
        # As it is called: a wrapper that supplies arguments of its own shows those of the function behind it.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # some that are written in C have none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        called, taken = ", ".join(arguments), ", ".join(signature.parameters)
        raise HandlerDefinitionError(
            f"{name} is called with ({called}), and {getattr(function, '__name__', 'it')} takes ({taken})",
            hint=f"its parameters are ({called}), under any names",
        ) from None


def _is_generator(name: str) -> HandlerDefinitionError:
    return HandlerDefinitionError(f"{name} is an async generator, which nobody runs", hint="remove its `yield`")


def room_callbacks(handler: object) -> dict[type[events.RoomEvent], Deliver]:
    """The room callbacks that a handler really has: those it sets or overrides."""
    found = handler.room_deliveries() if isinstance(handler, SimpleUniversalHandler) else {}
    for name, callback in ROOM_CALLBACKS.items():
        method = getattr(handler, callback.method, None)
        # The function behind a bound method; what is set on the instance is its own.
        default = getattr(method, "__func__", None) is getattr(BaseHandler, callback.method)
        if callable(method) and not default:
            event = _event(name)
            if event in found:
                raise _set_twice(callback.method)
            found[event] = _deliver(event, cast("Callable[..., Maybe]", method))
    return found


def hears_ends(handler: UniversalHandler) -> bool:
    """Whether anything is called at a job's end: scopes and deadlines for a default that does nothing cost too."""
    if isinstance(handler, SimpleUniversalHandler) and handler._job_terminated is not None:  # pyright: ignore[reportPrivateUsage]
        return True
    method = getattr(handler.on_job_terminated, "__func__", None)
    return method not in (BaseHandler.on_job_terminated, SimpleUniversalHandler.on_job_terminated)


async def ask(handler: UniversalHandler, job: Job) -> JobMetadata | Reject:
    """A handler's answer to an offer, normalised.  Raises what the handler raises, and HandlerDefinitionError for an
    answer that is none."""
    answer = await _call_request(handler.on_job_request, job)
    if answer is True:
        return NO_METADATA
    if answer is False or answer is None:
        return Reject()
    if isinstance(answer, JobMetadata | Reject):
        return answer
    raise HandlerDefinitionError(
        f"on_job_request returned {type(answer).__name__}",
        hint="return JobMetadata or True to accept; None, False or Reject to decline",
    )


async def _call_request(function: Callable[[Job], Any], job: Job) -> object:
    if _runs_on_the_loop(getattr(function, "__func__", function)):
        answer = function(job)
        # A plain function that wraps a coroutine function looks like it, and may have run it already.
        return await answer if inspect.isawaitable(answer) else answer
    # A plain function may still hand back an awaitable (a lambda around a coroutine function does).
    answer = await _in_a_thread(function, job)
    return await answer if inspect.isawaitable(answer) else answer


async def _in_a_thread(function: Callable[[Job], Any], job: Job) -> Any:
    """Call in a thread, which is abandoned on cancellation.

    Its place is free when the thread is done, not when nobody waits for it any more: a lookup that hangs must not cost
    one more thread with each offer.  A thread of our own, because on asyncio AnyIO gives the place back at once, and
    its threads keep the process from ending.
    """
    from .rooms._mailbox import current_loop

    loop, places, place, done = current_loop(), _request_threads(), object(), anyio.Event()
    answers: list[Any] = []
    errors: list[BaseException] = []

    def finish() -> None:
        places.release_on_behalf_of(place)
        done.set()

    def call() -> None:
        try:
            answers.append(function(job))
        except BaseException as exc:  # the thread's boundary: raised where the answer is waited for
            errors.append(exc)
        with suppress(RuntimeError):  # the event loop is gone, and its places with it
            loop.post(finish)

    await places.acquire_on_behalf_of(place)
    try:
        _start_thread(partial(copy_context().run, call))
    except BaseException:
        places.release_on_behalf_of(place)
        raise
    await done.wait()
    if errors:
        raise errors.pop()
    return answers[0]


def _start_thread(call: Callable[[], object]) -> None:
    """Virtual time refuses it by name."""
    threading.Thread(target=call, name="livekit_agent on_job_request", daemon=True).start()


def _runs_on_the_loop(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine, as far as one can see."""
    known = getattr(function, "__code__", None)
    if known is not None and not hasattr(function, "__wrapped__"):
        return bool(known.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(function)
    return inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def _request_threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(SYNC_REQUEST_THREADS_MAX)
        _limiter.set(limiter)
        return limiter


#: One for each event loop: a limiter belongs to the loop, and to the backend, that it was made on.
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("livekit_agent_request_threads")


def _deliver(event: type[events.RoomEvent], function: Callable[..., Maybe]) -> Deliver:
    callback = _callback_of(event)
    if callback is None:
        return lambda ctx, value: _pending(function(ctx, value))
    return lambda ctx, value: _pending(function(ctx, *callback.arguments(value)))


def _pending(result: object) -> Maybe:
    """What is to be awaited; a plain function's result is its own business (``lambda …: queue.append(…)``)."""
    return result if inspect.isawaitable(result) else None


async def _finish(result: object) -> None:
    if inspect.isawaitable(result):
        await result


def _callable(name: str, arguments: tuple[str, ...], function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if function is None:
        return None
    if not callable(function):
        raise HandlerDefinitionError(f"{name} is {type(function).__name__}, not a function")
    if inspect.isasyncgenfunction(function):
        raise _is_generator(name)
    _check_arguments(name, arguments, function)
    return function


def _once(
    name: str, arguments: tuple[str, ...], current: Callable[..., Any] | None, function: Callable[..., Any]
) -> Callable[..., Any]:
    if current is not None:
        raise _set_twice(name)
    checked = _callable(name, arguments, function)
    assert checked is not None
    return checked


def _set_twice(name: str) -> HandlerDefinitionError:
    return HandlerDefinitionError(f"{name} is set twice", hint="one function each; call the others from it")
