"""Under the room: who gets which event, and what becomes of those that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from livekit_agent import RoomClosedError, RoomError
from livekit_agent.rooms._calls import Call, failure
from livekit_agent.rooms._ffi import NativeTransport
from livekit_agent.rooms._mailbox import LoopHandle, Mailbox, current_loop
from livekit_agent.rooms._proto import ffi, handle
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._transport import Router, owned_handles, release


class Recorder:
    """A transport that notes what it is asked and answers nothing."""

    def __init__(self) -> None:
        self.router = Router(self)
        self.asked: list[ffi.FfiRequest] = []
        self.dropped: list[int] = []
        self.reject = False

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        self.asked.append(request)
        if self.reject:
            raise RoomError("rejected")
        return ffi.FfiResponse()

    def drop(self, handle_id: int) -> bool:
        self.dropped.append(handle_id)
        return True

    @contextmanager
    def lend(self, data: bytes) -> Iterator[int]:
        yield 1

    def read(self, buffer: room_pb.BufferInfo) -> bytes:
        return b""


def joined(async_id: int) -> ffi.FfiEvent:
    event = ffi.FfiEvent()
    event.connect.async_id = async_id
    result = event.connect.result
    result.room.handle.id = 10
    result.local_participant.handle.id = 11
    for number in (20, 30):
        entry = result.participants.add()
        entry.participant.handle.id = number
        entry.publications.add().handle.id = number + 1
    return event


def data(room_handle: int, owned: int) -> ffi.FfiEvent:
    packet = room_pb.DataPacketReceived()
    packet.user.data.handle.id = owned
    return ffi.FfiEvent(room_event=room_pb.RoomEvent(room_handle=room_handle, data_packet_received=packet))


def test_every_handle_of_a_message_is_found() -> None:
    assert list(owned_handles(joined(1))) == [10, 11, 20, 21, 30, 31]
    assert list(owned_handles(data(1, 5))) == [5]
    assert list(owned_handles(handle.FfiOwnedHandle(id=3))) == [3]
    republished = room_pb.RoomEvent(local_track_republished=room_pb.LocalTrackRepublished(publication_handle=9))
    assert list(owned_handles(republished)) == [9]


def test_a_join_that_nobody_waits_for_is_made_ready_left_and_dropped() -> None:
    transport = Recorder()
    release(transport, joined(1))
    assert [request.WhichOneof("message") for request in transport.asked] == ["ready_for_room_event", "disconnect"]
    assert transport.dropped == [10, 11, 20, 21, 30, 31]


def test_events_go_to_who_waits_for_them_and_to_nobody_else() -> None:
    transport = Recorder()
    router = transport.router
    got: list[str] = []
    first = router.expect(lambda _: got.append("first"))
    second = router.expect(lambda _: got.append("second"))
    router.route_room(10, lambda event: got.append(event.WhichOneof("message") or ""), lambda: None)
    router.deliver(joined(second))
    router.deliver(joined(first))
    router.deliver(data(10, 5))
    assert got == ["second", "first", "data_packet_received"]
    assert transport.dropped == []
    router.deliver(joined(second))
    router.deliver(data(99, 6))
    assert transport.dropped == [10, 11, 20, 21, 30, 31, 6]
    router.close_room(10)
    assert router.idle


def test_what_is_forgotten_is_reclaimed_when_it_comes() -> None:
    transport = Recorder()
    router = transport.router
    reclaimed: list[ffi.FfiEvent] = []
    forgotten = router.expect(lambda _: pytest.fail("nobody waits"), reclaim=reclaimed.append)
    router.forget(forgotten)
    assert router.pending_calls == 1
    router.deliver(joined(forgotten))
    assert len(reclaimed) == 1
    assert router.idle


def test_the_end_of_a_room_ends_its_calls_and_no_others() -> None:
    router = Recorder().router
    got: list[tuple[str, object]] = []
    router.route_room(10, lambda _: None, lambda: None)
    router.expect(lambda event: got.append(("ours", event)), room_handle=10)
    router.forget(router.expect(lambda event: got.append(("forgotten", event)), room_handle=10))
    router.expect(lambda event: got.append(("other", event)), room_handle=11)
    router.close_room(10)
    assert got == [("ours", None)]
    assert router.pending_calls == 1


def test_a_panic_ends_the_rooms_that_the_library_has_forgotten() -> None:
    transport = Recorder()
    lost: list[int] = []
    transport.router.route_room(10, lambda _: None, lambda: lost.append(10))
    transport.router.probe()
    assert lost == []
    transport.reject = True
    transport.router.probe()
    assert lost == [10]


@pytest.mark.virtual
async def test_a_call_has_a_deadline() -> None:
    transport = Recorder()
    call = Call(transport, ffi.FfiRequest(publish_data=room_pb.PublishDataRequest()))
    with pytest.raises(TimeoutError, match="did not answer publish_data within 30 s"):
        await call.wait(30)
    assert anyio.current_time() == 30
    assert transport.router.pending_calls == 1


@pytest.mark.virtual
async def test_a_call_ends_with_its_room() -> None:
    transport = Recorder()
    call = Call(transport, ffi.FfiRequest(publish_data=room_pb.PublishDataRequest()), room_handle=10)
    transport.router.close_room(10)
    with pytest.raises(RoomClosedError):
        await call.wait(30)


@pytest.mark.virtual
async def test_an_answer_that_came_as_its_waiter_was_cancelled_is_reclaimed() -> None:
    transport = Recorder()
    call = Call(transport, ffi.FfiRequest(connect=room_pb.ConnectRequest()))
    async_id = transport.asked[0].connect.request_async_id

    async def waiter() -> None:
        await call.wait(30)

    async with anyio.create_task_group() as group:
        group.start_soon(waiter)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
        # The waiter is cancelled and has not run yet; now the answer comes.
        transport.router.deliver(joined(async_id))
    assert transport.dropped == [10, 11, 20, 21, 30, 31]


@pytest.mark.virtual
async def test_a_request_that_is_rejected_leaves_nothing_pending() -> None:
    transport = Recorder()
    transport.reject = True
    with pytest.raises(RoomError):
        Call(transport, ffi.FfiRequest(publish_data=room_pb.PublishDataRequest()))
    assert transport.router.idle


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("request error: NotAllowed - does not have permission", "ROOM_PERMISSION"),
        ("request error: LimitExceeded - exceeds attributes size limit", "ROOM_LIMIT_EXCEEDED"),
        ("data packet size (9 bytes) exceeds the negotiated maximum message size (8 bytes)", "ROOM_DATA_TOO_LARGE"),
        ("something else", "ROOM_ERROR"),
    ],
)
def test_the_librarys_errors_get_a_name(text: str, code: str) -> None:
    assert failure(text, "not done").code == code


def test_the_librarys_errors_lose_their_tokens() -> None:
    assert "eyJabcdefgh" not in str(failure("invalid token: eyJabcdefgh.abc.def\n", "not done"))


# ------------------------------------------------------------------------------------------------ the mailbox


def test_a_burst_wakes_the_loop_once() -> None:
    posts: list[Callable[[], object]] = []
    got: list[int] = []
    mailbox: Mailbox[int] = Mailbox(got.append, post=posts.append)
    for number in range(100):
        mailbox.put(number)
    assert len(posts) == 1
    posts.pop()()
    assert got == list(range(100))
    mailbox.put(100)
    assert len(posts) == 1


def test_what_arrives_during_a_drain_waits_for_the_next() -> None:
    posts: list[Callable[[], object]] = []
    got: list[int] = []

    def deliver(number: int) -> None:
        got.append(number)
        if number < 3:
            mailbox.put(number + 1)

    mailbox: Mailbox[int] = Mailbox(deliver, post=posts.append)
    mailbox.put(1)
    while posts:
        posts.pop(0)()
        got.append(0)
    assert got == [1, 0, 2, 0, 3, 0]


@pytest.mark.parametrize("where", ["refused", "closed"])
def test_a_loop_that_is_gone_gets_nothing_and_nothing_is_lost(where: str) -> None:
    alive = True

    def post(drain: Callable[[], object]) -> None:
        if where == "refused" and not alive:
            raise RuntimeError("Event loop is closed")

    left: list[int] = []
    mailbox: Mailbox[int] = Mailbox(
        lambda _: pytest.fail("delivered"),
        post=post,
        alive=lambda: alive or where == "refused",
        undeliverable=left.append,
    )
    if where == "closed":
        mailbox.put(1)  # accepted, and never run
    mailbox.sweep()
    assert left == []
    alive = False
    mailbox.put(2)
    mailbox.put(3)
    assert left == ([1, 2, 3] if where == "closed" else [2, 3])


async def test_events_from_other_threads_arrive_in_order() -> None:
    got: list[int] = []
    done = anyio.Event()

    def deliver(number: int) -> None:
        got.append(number)
        if number == 999:
            done.set()

    mailbox: Mailbox[int] = Mailbox(deliver, post=current_loop().post)
    thread = threading.Thread(target=lambda: [mailbox.put(number) for number in range(1_000)])
    thread.start()
    with anyio.fail_after(10):
        await done.wait()
    thread.join()
    assert got == list(range(1_000))


async def test_what_arrives_from_another_thread_is_delivered_where_the_clock_can_be_read() -> None:
    """A callback has no task by which AnyIO could tell its backend, and the thread's context does not know it."""
    read: list[float] = []
    done = anyio.Event()

    def deliver(_: int) -> None:
        try:
            read.append(anyio.current_time())
        finally:
            done.set()

    mailbox: Mailbox[int] = Mailbox(deliver, post=current_loop().post)
    before = anyio.current_time()
    thread = threading.Thread(target=mailbox.put, args=[1])
    thread.start()
    with anyio.fail_after(10):
        await done.wait()
    thread.join()
    assert before <= read[0] <= anyio.current_time()


def test_a_finished_loop_is_noticed(backend: str) -> None:
    mailboxes: list[Mailbox[int]] = []
    left: list[int] = []

    async def main() -> None:
        loop = current_loop()
        mailboxes.append(Mailbox(left.append, post=loop.post, alive=loop.alive, undeliverable=left.append))
        await anyio.lowlevel.checkpoint()

    anyio.run(main, backend=backend)
    mailboxes[0].put(1)
    mailboxes[0].put(2)
    assert left == [1, 2]


class LibraryOfTwoRooms:
    """The native library's Python half, as a transport sees it; it has forgotten room 10."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.dropped: list[int] = []

    def new_number(self) -> int:
        return 1

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        self.asked.append(request.disconnect.room_handle)
        if self.asked[-1] == 10:
            raise RoomError("rejected")
        return ffi.FfiResponse()

    def drop(self, handle_id: int) -> bool:
        self.dropped.append(handle_id)
        return True

    def register(self, transport: object) -> None: ...
    def unregister(self, transport: object) -> None: ...
    def own_room(self, room_handle: int, transport: object) -> None: ...


def test_a_loop_that_is_gone_leaves_all_its_rooms_also_behind_one_that_the_library_has_forgotten() -> None:
    def post(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    library: Any = LibraryOfTwoRooms()
    transport = NativeTransport(library, LoopHandle(post, post, lambda: True))
    for room_handle in (10, 20):
        transport.router.route_room(room_handle, lambda _: pytest.fail("delivered"), lambda: None)
    late = room_pb.RoomEvent(room_handle=20)
    late.participant_connected.info.handle.id = 99
    transport.mail(ffi.FfiEvent(room_event=late))
    assert library.asked == [10, 20]
    assert library.dropped == [10, 20, 99]
