"""Secrets are planted where they could leak, things are made to go wrong, and every text is searched for them.

Texts are: all log records at DEBUG with websocket_debug on, with their arguments and tracebacks; every exception with
its causes, contexts, notes, arguments and attributes; reprs and strs of every object in reach.  A minted token is
recognised by how every JWT begins.
"""

from __future__ import annotations

import inspect
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from hypothesis import given
from hypothesis import strategies as st

import livekit_agent
from livekit_agent import (
    AgentError,
    AuthenticationError,
    Config,
    ConfigError,
    ConnectionLostError,
    JobMetadata,
    JobStatus,
    RoomConnectError,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
)
from livekit_agent import _errors as errors
from livekit_agent._errors import printable, redact
from livekit_agent.api import ApiError, LiveKitAPI
from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import JobEnded
from livekit_agent.protocol import SignalConnection, mint_token, worker_token

KEY = "APIb2cKpQ7xYz9T"
SECRET = "PLANTED-secret-kJ8sQp2LmZ0vXyR4tUwE6bNcA1dF"
METADATA = "PLANTED-metadata-of-a-job"
PROXY_PASSWORD = "PLANTED-proxy-password"

# Any JWT begins like this; none may appear in any text.
TOKEN = re.compile(r"eyJ[A-Za-z0-9_\-]{4,}")
TOKEN_RUN = re.compile(r"eyJ[A-Za-z0-9_\-]{5,}")


def search(texts: list[str]) -> list[str]:
    """What of the planted is found in the texts."""
    everything = "\n".join(texts)
    found = [planted for planted in (SECRET, METADATA, PROXY_PASSWORD) if planted in everything]
    return found + TOKEN.findall(everything)


def rendered(error: BaseException) -> list[str]:
    """Everything that an error reporter might send: the traceback with its chain, reprs, args and attributes."""
    texts = ["".join(traceback.format_exception(error))]
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        exc = todo.pop()
        if exc is None or exc in seen:
            continue
        seen.append(exc)
        texts += [repr(exc), str(exc), repr(exc.args), repr(vars(exc))]
        todo += [exc.__cause__, exc.__context__]
        if isinstance(exc, BaseExceptionGroup):
            todo += exc.exceptions
    return texts


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """All records of all loggers from DEBUG on, as text, tracebacks and arguments included."""
    texts: list[str] = []
    formatter = logging.Formatter("%(name)s %(message)s")

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(formatter.format(record) + repr(record.args) + repr(record.__dict__))

    root, keeper = logging.getLogger(), Keeper()
    levels = {name: logging.getLogger(name).level for name in ("", "livekit_agent", "httpx", "httpcore")}
    root.addHandler(keeper)
    for name in levels:
        logging.getLogger(name or None).setLevel(logging.DEBUG)
    try:
        yield texts
    finally:
        root.removeHandler(keeper)
        for name, level in levels.items():
            logging.getLogger(name or None).setLevel(level)


def test_the_search_finds_what_is_there() -> None:
    token = worker_token(KEY, SECRET, wall=0)
    assert search([f"a {SECRET} b"]) == [SECRET]
    assert search(rendered(ValueError("x", {"token": token}))) != []
    try:
        raise ValueError(SECRET)
    except ValueError:
        assert search(rendered(_raised_from_here())) == [SECRET]
    with everything_logged() as texts:
        logging.getLogger("anything").debug("%s", {"token": token})
    assert search(texts) != []


def _raised_from_here() -> BaseException:
    try:
        raise KeyError("harmless")
    except KeyError as error:
        return error


def options(**more: Any) -> WorkerOptions:
    return WorkerOptions(websocket_debug=True, **more)


def worker(url: str, secret: str = SECRET, **more: Any) -> UniversalWorker:
    opts = options(**{name: more.pop(name) for name in ("max_connect_failures", "proxy") if name in more})
    return UniversalWorker(url, KEY, secret, more.pop("handler", SimpleUniversalHandler()), opts, **more)


# ------------------------------------------------------------------------------------------------ at rest


def test_nothing_that_holds_a_secret_shows_it() -> None:
    server = DispatchServer(api_key=KEY, api_secret=SECRET)
    token = mint_token(KEY, SECRET, wall=0, video={"roomJoin": True}, metadata=METADATA)
    things: list[object] = [
        Config(api_secret=SECRET, api_key=SECRET, url=f"wss://u:{SECRET}@h", proxy_url=f"http://u:{PROXY_PASSWORD}@p"),
        worker("ws://localhost:1", proxy=f"http://me:{PROXY_PASSWORD}@localhost:2"),
        LiveKitAPI("ws://localhost:1", KEY, SECRET),
        server,
        server.rooms,
        JobMetadata(participant_metadata=METADATA, participant_attributes={"a": METADATA}),
    ]
    assert search([f"{thing!r} {thing}" for thing in things]) == []
    assert TOKEN.match(token)


def test_options_show_no_proxy_password() -> None:
    assert search([repr(options(proxy=f"http://me:{PROXY_PASSWORD}@localhost:2"))]) == []


# ------------------------------------------------------------------------------------------------ refused


def quoting_server(status: str) -> Any:
    """A server that answers with the whole request in its body, as livekit-server does with the token of a 401."""

    async def serve(stream: ByteStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            body = b"invalid token: " + data
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            await stream.send(head + body)

    return serve


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("401 Unauthorized", AuthenticationError),
        ("403 Forbidden", AuthenticationError),
        ("404 Not Found", ConnectionLostError),
        ("500 Internal Server Error", ConnectionLostError),
        ("302 Found", ConnectionLostError),
        ("200 OK", ConnectionLostError),
    ],
)
async def test_a_server_that_quotes_the_token_back_is_not_repeated(status: str, expected: type[AgentError]) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    with everything_logged() as texts:
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, quoting_server(status))
            one = worker(f"ws://127.0.0.1:{port}", max_connect_failures=2)
            with pytest.raises(expected) as caught:
                await one.start()
            tasks.cancel_scope.cancel()
    assert search(texts + rendered(caught.value) + [repr(one)]) == []
    assert len(texts) >= 2


async def test_a_wrong_secret_at_the_dispatch_server() -> None:
    with everything_logged() as texts:
        async with DispatchServer(api_key=KEY, api_secret=SECRET) as server:
            with pytest.raises(AuthenticationError) as caught:
                await worker(server.url, secret=SECRET + "x").start()
            async with LiveKitAPI(server.url, KEY, SECRET + "x") as api:
                with pytest.raises(ApiError) as refused:
                    await api.rooms.list()
            with pytest.raises(RoomConnectError) as outside:
                await server.rooms.connect(server.url, mint_token(KEY, SECRET + "x", wall=0, video={"roomJoin": True}))
    errors = rendered(caught.value) + rendered(refused.value) + rendered(outside.value)
    assert search(texts + errors) == []


async def test_the_http_api_against_a_server_that_quotes_the_token() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    with everything_logged() as texts:
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, quoting_server("401 Unauthorized"))
            async with LiveKitAPI(f"http://127.0.0.1:{port}", KEY, SECRET) as api:
                with pytest.raises(ApiError) as caught:
                    await api.dispatch.create("room", metadata=METADATA)
            tasks.cancel_scope.cancel()
    assert search(texts + rendered(caught.value)) == []


async def test_a_proxy_with_a_password_that_refuses() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    with everything_logged() as texts:
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, quoting_server("407 Proxy Authentication Required"))
            proxy = f"http://me:{PROXY_PASSWORD}@127.0.0.1:{port}"
            with pytest.raises(ConnectionLostError) as caught:
                await worker("wss://livekit.invalid", proxy=proxy, max_connect_failures=1).start()
            tasks.cancel_scope.cancel()
    assert search(texts + rendered(caught.value)) == []


# ------------------------------------------------------------------------------------------------ a whole life


async def test_a_whole_job_that_fails_while_everything_is_logged() -> None:
    """Register, take a job with secret metadata, join, fail inside the handler, reconnect, stop."""
    handler = SimpleUniversalHandler()

    @handler.job_request
    async def request(job: Any) -> JobMetadata:
        return JobMetadata(participant_metadata=METADATA)

    @handler.job_assigned
    async def assigned(ctx: Any) -> None:
        texts.append(f"{ctx!r} {ctx.job!r} {ctx.metadata!r} {ctx.room!r} {ctx.room.local_participant!r}")
        raise RuntimeError("the handler's own error")

    with everything_logged() as texts:
        async with DispatchServer(api_key=KEY, api_secret=SECRET) as server:
            one = UniversalWorker(server.url, KEY, SECRET, handler, options(agent_name="a"), rooms=server.rooms)
            ended = one.events(JobEnded)
            async with one:
                server.create_dispatch("room", "a", metadata=METADATA)
                event = await anext(ended)
                texts += [repr(event), repr(server.jobs), repr(server.workers), *rendered(event.error or Exception())]
                assert event.status is JobStatus.FAILED
                server.disconnect_worker(one.worker_id)
                await server.wait_for(lambda: server.workers, timeout=10)
            texts += [repr(one), repr(one.stats), repr(server)]
    assert search(texts) == []
    assert any("handler's own error" in text for text in texts)


async def test_a_join_that_fails_with_the_token_in_the_librarys_message() -> None:
    class QuotingRooms:
        """The native library's connect error holds the URL with the whole token."""

        async def connect(self, url: str, token: str, *, timeout: float = 0, **options: Any) -> Any:
            raise RoomConnectError(f"engine: signal failure: ws error {url}/rtc?access_token={token}&sdk=rust")

    with everything_logged() as texts:
        async with DispatchServer(api_key=KEY, api_secret=SECRET) as server:
            rooms: Any = QuotingRooms()
            one = worker(server.url, rooms=rooms)
            ended = one.events(JobEnded)
            async with one, server.rooms.join("room", "alice"):
                event = await anext(ended)
                record = next(iter(server.jobs.values()))
            texts += [repr(record), record.error, *map(repr, record.history), *rendered(event.error or Exception())]
    assert event.status is JobStatus.FAILED
    assert record.status == JobStatus.FAILED
    assert search(texts) == []


@pytest.mark.parametrize("where", ["text", "argument", "cause", "group", "config error"])
async def test_a_connector_that_breaks_with_the_token_in_hand(where: str) -> None:
    """Somebody else's connector: it knows no RoomConnectError and quotes what it was given, somewhere."""

    class Careless:
        async def connect(self, url: str, token: str, *, timeout: float = 0, **options: Any) -> Any:
            quoting = ValueError(f"GET {url}/rtc?access_token={token} failed")
            match where:
                case "text":
                    raise quoting
                case "argument":
                    raise OSError(5, {"authorization": token})
                case "cause":
                    raise RuntimeError("cannot join") from quoting
                case "group":
                    raise ExceptionGroup("two", [quoting, KeyError(token)])
                case _:
                    raise ConfigError("no such region") from quoting

    with everything_logged() as texts:
        async with DispatchServer(api_key=KEY, api_secret=SECRET) as server:
            rooms: Any = Careless()
            one = worker(server.url, rooms=rooms)
            ended = one.events(JobEnded)
            async with one, server.rooms.join("room", "alice"):
                event = await anext(ended)
                record = next(iter(server.jobs.values()))
            texts += [repr(record), record.error, repr(event)]
            if where != "config error":  # one of ours is handed on as it is, with the cause that somebody gave it
                texts += rendered(event.error or Exception())
    assert (event.status, record.status) == (JobStatus.FAILED, JobStatus.FAILED)
    assert search(texts) == []
    assert any("Traceback" in text and "in connect" in text for text in texts), "the author of the connector is told"


async def test_a_handlers_own_error_that_quotes_a_token_is_logged_without_it() -> None:
    token = mint_token(KEY, SECRET, wall=0, video={"roomJoin": True})
    handler = SimpleUniversalHandler()

    @handler.job_assigned
    async def assigned(ctx: Any) -> None:
        def cleanup() -> None:
            raise ValueError(token)

        ctx.push_cleanup(cleanup)
        raise ValueError(f"HTTP 401, request headers {{'authorization': 'Bearer {token}'}}")

    with everything_logged() as texts:
        async with DispatchServer(api_key=KEY, api_secret=SECRET) as server:
            one = worker(server.url, handler=handler, rooms=server.rooms)
            ended = one.events(JobEnded)
            async with one, server.rooms.join("room", "alice"):
                await anext(ended)
                texts.append(next(iter(server.jobs.values())).error)
    assert search(texts) == []
    assert any("ValueError: HTTP 401" in text and "in assigned" in text for text in texts)
    assert any("a clean-up failed" in text for text in texts)


# ------------------------------------------------------------------------------------------------ redaction

TOKENS = st.builds(
    lambda identity, room, secret: mint_token(
        KEY, secret, wall=0, video={"roomJoin": True, "room": room}, identity=identity
    ),
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(st.characters(codec="ascii"), min_size=32, max_size=40),
)
SURROUNDINGS = st.text(max_size=40) | st.from_regex(r"(?:eyJ)?[A-Za-z0-9_\-.%=&?/:\"' ]{0,40}", fullmatch=True)


@given(SURROUNDINGS, TOKENS, SURROUNDINGS, st.integers(1, 500))
def test_no_token_survives_whatever_surrounds_it(before: str, token: str, after: str, limit: int) -> None:
    runs = token.split(".")
    quoted = (before + token + after, f"{before}access_token={token}&{after}", f"{before} Bearer {token}{after}")
    for text in quoted:
        for clean in (redact(text), printable(text, limit), str(RoomConnectError(text)), repr(ApiError(text))):
            for run in runs:
                # A head of eight characters is {"alg":, {"exp" or the like in every token there is.
                assert run not in clean
                assert not TOKEN_RUN.search(clean)


ERRORS = [
    cls
    for name in errors.__all__
    if inspect.isclass(cls := getattr(errors, name)) and issubclass(cls, AgentError) and cls is not errors.ProtocolError
]


@given(st.sampled_from(ERRORS), TOKENS)
def test_no_error_of_ours_can_be_made_to_hold_a_token(cls: type[AgentError], token: str) -> None:
    error = cls(f"signal failure: ws error wss://h/rtc?access_token={token}", hint=f"try {token}")
    assert search(rendered(error)) == []


def test_arguments_in_the_wrong_order_show_nothing() -> None:
    for arguments in ((SECRET, KEY, "ws://h"), (KEY, "ws://h", SECRET), (f"wss://{KEY}:{SECRET}@h", KEY, SECRET)):
        with everything_logged() as texts, pytest.raises(AgentError) as caught:
            UniversalWorker(*arguments, SimpleUniversalHandler())
        assert search(texts + rendered(caught.value)) == []


def test_a_program_that_ends_with_an_error_prints_no_secret(backend: Any, capfd: pytest.CaptureFixture[str]) -> None:
    proxy = f"http://me:{PROXY_PASSWORD}@127.0.0.1:1"
    one = worker("wss://livekit.invalid", proxy=proxy, max_connect_failures=1)
    with everything_logged() as texts:
        assert livekit_agent.run(one, backend=backend) == 75
    assert any("gave up" in text for text in texts)
    assert search([*texts, *capfd.readouterr()]) == []


# ------------------------------------------------------------------------------------------------ the protocol core


def test_the_protocol_cores_events_and_errors_hold_no_token() -> None:
    server: Any = SignalConnection.server(now=0.0)
    token = worker_token(KEY, SECRET, wall=0)
    request = (
        f"GET /agent?access_token={token} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    server.receive_data(request.encode(), 0.0)
    events = server.events()
    assert events
    assert search([f"{server!r}", *map(repr, events)]) == []
