"""The direct path for plain frames says, byte for byte and event for event, what wsproto would have said."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import WSConnection, frame_protocol, utilities

from livekit_agent.protocol import Role, _frame_guard, _plain_frames, _websocket
from livekit_agent.protocol._frame_guard import FrameGuard
from livekit_agent.protocol._websocket import Item, WebSocket

from .frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:

        def urandom(size: int) -> bytes:
            return b"\x11\x22\x33\x44" * (size // 4)

        fixed = SimpleNamespace(urandom=urandom)
        patch.setattr(frame_protocol, "os", fixed)
        patch.setattr(utilities, "os", fixed)
        yield


def opened(role: Role) -> WebSocket:
    """A socket past its handshake, with nothing in its outbox."""
    client, server = WebSocket(Role.WORKER), WebSocket(Role.SERVER)
    client.request_upgrade("h", "/agent", {})
    list(server.receive_data(client.take_outbox()))
    assert server.accept_upgrade()
    list(client.receive_data(server.take_outbox()))
    return client if role is Role.WORKER else server


class ByWsproto:
    """While it is entered, no frame is plain."""

    def __enter__(self) -> None:
        self._patches = [
            mock.patch.object(FrameGuard, "plain", return_value=([], 0)),
            mock.patch.object(_websocket, "ONE_INTEGER_BYTES", -1),
            mock.patch.object(_websocket, "plain_frame", side_effect=AssertionError("not a plain frame")),
        ]
        for patch in self._patches:
            patch.start()

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()


def heard(role: Role, pieces: list[bytes]) -> tuple[list[Item], bytes]:
    """All that is said of these bytes, and answered to them; single fragments are not items, so cuts do not show."""
    socket = opened(role)
    items = [item for piece in pieces for item in socket.receive_data(piece)]
    return items, socket.take_outbox()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(marks) if a < b]


def _pattern(size_and_first: tuple[int, int]) -> bytes:
    size, first = size_and_first
    return bytes((first + i) % 256 for i in range(size))


SIZES = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 300, 2047, 2048, 2049, 65_535, 65_536, 70_000]))
PAYLOADS = st.tuples(SIZES, st.integers(0, 255)).map(_pattern)
#: Mostly plain frames; now and then all that a direct path could stumble over.
FRAMES = st.one_of(
    *[st.tuples(st.just(BINARY), PAYLOADS, st.just(True), st.just(0), st.none())] * 4,
    st.tuples(
        st.sampled_from([BINARY, TEXT, CONTINUATION, PING, PONG, CLOSE, 0x3]),
        st.one_of(st.binary(max_size=130), st.just(b""), st.just(b"\x03\xe8bye")),
        st.booleans(),
        st.sampled_from([0, 0, 0, 0, 1, 4]),
        st.sampled_from([None, None, 16, 64]),
    ),
)


@given(
    role=st.sampled_from([Role.WORKER, Role.SERVER]),
    said=st.lists(FRAMES, max_size=8),
    wrong_mask=st.sampled_from([None, None, None, 0, 1, 5]),
    places=st.lists(st.integers(0, 10**6), max_size=6),
    tail=st.binary(max_size=12),
)
def test_whatever_comes_and_however_it_is_cut_both_ways_hear_the_same(
    role: Role,
    said: list[tuple[int, bytes, bool, int, int | None]],
    wrong_mask: int | None,
    places: list[int],
    tail: bytes,
) -> None:
    masked = role is Role.SERVER
    data = b"".join(
        frame(opcode, payload, fin=fin, rsv=rsv, form=form, mask=masked is not (number == wrong_mask))
        for number, (opcode, payload, fin, rsv, form) in enumerate(said)
        if form != 16 or len(payload) < 2**16
    )
    pieces = cut(data + tail, places)

    directly = heard(role, pieces)
    with ByWsproto():
        by_wsproto = heard(role, pieces)

    assert directly == by_wsproto


@given(role=st.sampled_from([Role.WORKER, Role.SERVER]), payloads=st.lists(PAYLOADS, min_size=1, max_size=4))
def test_what_is_said_directly_are_the_bytes_that_wsproto_would_have_sent(role: Role, payloads: list[bytes]) -> None:
    def said() -> bytes:
        socket = opened(role)
        for payload in payloads:
            socket.send_message(payload)
        socket.send_ping()
        return socket.take_outbox()

    directly = said()
    wsproto = frame_protocol.FrameProtocol(role is Role.WORKER, [])

    def by_wsproto(payload: bytes, key: bytes | None) -> bytes:
        return bytes(wsproto.send_data(payload))

    with mock.patch.object(_websocket, "plain_frame", side_effect=by_wsproto):
        assert directly == said()


def test_plain_frames_do_not_reach_wsproto() -> None:
    # Otherwise the two tests above compare wsproto with itself.
    client = opened(Role.WORKER)
    with mock.patch.object(WSConnection, "receive_data", side_effect=AssertionError("not plain")):
        assert len(list(client.receive_data(frame(BINARY, b"x" * 125) + frame(BINARY, b"y" * 65_535)))) == 2

    with mock.patch.object(WSConnection, "send", side_effect=AssertionError("not plain")):
        client.send_message(b"x" * _plain_frames.ONE_INTEGER_BYTES)


def test_a_frame_behind_an_open_message_is_not_plain() -> None:
    items, answer = heard(Role.WORKER, [frame(BINARY, b"one", fin=False), frame(BINARY, b"two")])

    assert [type(item).__name__ for item in items] == ["Failed"]
    assert answer != b""


@pytest.mark.parametrize("length", [0, 125])
@pytest.mark.parametrize("role", [Role.WORKER, Role.SERVER])
def test_a_length_in_a_longer_form_than_it_needs_is_not_plain(role: Role, length: int) -> None:
    items, _ = heard(role, [frame(BINARY, bytes(length), form=16, mask=role is Role.SERVER)])

    assert [type(item).__name__ for item in items] == ["Failed"]


def test_a_plain_frame_is_held_to_the_bound_and_counts_towards_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_frame_guard, "MESSAGE_BYTES_MAX", 1_000)
    one_too_many = frame(BINARY, bytes(1_001))
    astray = frame(BINARY, bytes(600)) + frame(CONTINUATION, bytes(600))

    assert heard(Role.WORKER, [one_too_many]) == heard(Role.WORKER, cut(one_too_many, [3]))
    assert heard(Role.WORKER, [astray]) == heard(Role.WORKER, cut(astray, [3]))


def test_every_frame_has_a_key_of_its_own() -> None:
    count = iter(range(10**6))

    def urandom(size: int) -> bytes:
        return b"".join(next(count).to_bytes(4, "big") for _ in range(size // 4))

    pool = _plain_frames.MaskPool(urandom)

    assert len({pool.take() for _ in range(1_000)}) == 1_000


def test_after_our_close_nothing_more_is_said() -> None:
    socket = opened(Role.WORKER)
    socket.send_close(1000, "")

    with pytest.raises(Exception, match="cannot be sent"):
        socket.send_message(b"late")
