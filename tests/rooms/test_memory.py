"""Rooms in memory: what a server hears, what time does, what a test can script."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest
from wrong import instead

from livekit_agent import ConnectionQuality, ParticipantPermissions, RoomConnectError, RoomError, events
from livekit_agent.rooms import AudioSource, ConnectionState, DisconnectReason, MemoryRooms, ParticipantKind, Room
from livekit_agent.rooms import _ledger_events as ledger
from livekit_agent.rooms._memory_network import Delays
from livekit_agent.rooms._memory_transport import MemoryTransport
from livekit_agent.rooms._wire import callback
from livekit_agent.simulation import run_virtual

pytestmark = pytest.mark.virtual


async def settled() -> None:
    """What has been sent has arrived: instants cost no time, a tick of the clock is longer than all of them."""
    await anyio.sleep(0.001)


def drain(subscription: object) -> list[events.RoomEvent]:
    got: list[events.RoomEvent] = []
    while (event := subscription.next_nowait()) is not None:  # type: ignore[attr-defined]
        got.append(event)
    return got


def kinds(subscription: object) -> list[str]:
    return [type(event).__name__ for event in drain(subscription)]


# ------------------------------------------------------------------------------------------------ what a server hears


async def test_who_speaks_is_told_to_all_and_for_each_of_the_others() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b"), rooms.join("r", "c"):
        heard = a.subscribe(events.ActiveSpeakersChanged, events.SpeakingChanged)
        await settled()
        b, c, me = a.remote_participants["b"], a.remote_participants["c"], a.local_participant

        rooms.set_speakers("r", ["b", "a", "nobody"])
        await settled()
        assert drain(heard) == [
            events.ActiveSpeakersChanged(speakers=(b, me)),
            events.SpeakingChanged(participant=b, speaking=True),
        ]
        assert (me.is_speaking, b.is_speaking, c.is_speaking) == (True, True, False)

        rooms.set_speakers("r", ["c"])
        rooms.set_speakers("r", [])
        await settled()
        assert drain(heard) == [
            events.ActiveSpeakersChanged(speakers=(c,)),
            events.SpeakingChanged(participant=b, speaking=False),
            events.SpeakingChanged(participant=c, speaking=True),
            events.ActiveSpeakersChanged(speakers=()),
            events.SpeakingChanged(participant=c, speaking=False),
        ]
        assert not me.is_speaking


async def test_the_quality_of_a_link_is_told_and_kept() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b"):
        heard = a.subscribe(events.ConnectionQualityChanged)
        rooms.set_quality("r", "b", ConnectionQuality.POOR)
        await settled()
        b = a.remote_participants["b"]
        assert drain(heard) == [events.ConnectionQualityChanged(participant=b, quality=ConnectionQuality.POOR)]
        assert b.connection_quality is ConnectionQuality.POOR
        assert a.local_participant.connection_quality is None


async def test_a_mute_by_the_server_is_told_once() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        publication = await a.local_participant.publish_audio()
        heard = a.subscribe(events.TrackMuted)
        assert rooms.mute_track("r", "a", publication.sid)
        assert rooms.mute_track("r", "a", publication.sid)
        assert not rooms.mute_track("r", "a", "TR_x")
        await settled()
        assert kinds(heard) == ["TrackMuted"]
        assert publication.muted


async def test_revoked_permission_takes_tracks_and_subscriptions_back() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        await settled()
        heard = b.subscribe()
        [publication] = b.remote_participants["a"].track_publications.values()
        rooms.update_participant("r", "b", permissions=ParticipantPermissions(can_subscribe=False))
        await settled()
        assert kinds(heard) == ["PermissionsChanged", "TrackUnsubscribed"]
        rooms.update_participant("r", "b", permissions=ParticipantPermissions())
        await settled()
        assert kinds(heard) == ["PermissionsChanged", "TrackSubscribed"]
        assert publication.subscribed
        rooms.update_participant("r", "a", permissions=ParticipantPermissions(can_publish=False))
        await settled()
        assert kinds(heard) == ["PermissionsChanged", "TrackUnsubscribed", "TrackUnpublished"]
        assert a.local_participant.track_publications == {}


async def test_a_hidden_participant_sees_and_is_not_seen() -> None:
    hidden = ParticipantPermissions(hidden=True)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard = a.subscribe()
        async with rooms.join("r", "ghost", permissions=hidden) as ghost:
            assert list(ghost.remote_participants) == ["a"]
            await ghost.local_participant.publish_audio()
            await ghost.local_participant.set_metadata("boo")
            await a.local_participant.set_name("Anna")
            await settled()
            assert ghost.remote_participants["a"].name == "Anna"
        await settled()
        assert kinds(heard) == ["NameChanged"]


REQUEST_TIMEOUT = "engine: signal failure: request timeout"
"""The library's words 5 s after an answer that it has missed (seen on the real server under load)."""


class AnswerMissed(MemoryTransport):
    """What we change of ourselves changes, and the library misses the answer."""

    def _answer(self, event: Any) -> None:
        kind = str(event.WhichOneof("message"))
        if not kind.startswith("set_local_"):
            super()._answer(event)
            return
        getattr(event, kind).error = REQUEST_TIMEOUT
        self._rooms.clock.later(5, lambda: super(AnswerMissed, self)._answer(event))


class RequestMissed(MemoryTransport):
    """What we ask for does not reach the server."""

    def _change(self, kind: str, async_id: int, **change: Any) -> None:
        self._rooms.clock.later(5, lambda: self._answer(callback(kind, async_id, error=REQUEST_TIMEOUT)))


async def test_a_change_of_ourselves_whose_answer_is_missed_has_happened() -> None:
    with instead(AnswerMissed):
        async with MemoryRooms() as rooms, rooms.join("r", "a", attributes={"drop": "1"}) as a:
            me = a.local_participant
            await me.set_attributes({"mood": "good", "drop": ""})
            await me.set_metadata("m")
            await me.set_name("Anna")
            assert (dict(me.attributes), me.metadata, me.name) == ({"mood": "good"}, "m", "Anna")


async def test_a_change_of_ourselves_that_did_not_happen_is_an_error() -> None:
    with instead(RequestMissed):
        async with MemoryRooms() as rooms, rooms.join("r", "a", attributes={"drop": "1"}) as a:
            me = a.local_participant
            for change in (me.set_attributes({"mood": "good"}), me.set_attributes({"drop": ""}), me.set_name("Anna")):
                with pytest.raises(RoomError, match="request timeout") as caught:
                    await change
                assert caught.value.code == "ROOM_TIMEOUT"
            assert (dict(me.attributes), me.name) == ({"drop": "1"}, "")


async def test_a_person_without_a_connection_can_be_played_on_the_ledger() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard = a.subscribe()
        person = rooms.ledger.join("r", "puppet", now=rooms.now(), wall=0, name="Punch")
        track = rooms.ledger.publish(person.sid, name="voice")
        rooms.ledger.send_data(person.sid, b"hello")
        rooms.settle()
        await settled()
        got = drain(heard)
        assert [type(event).__name__ for event in got] == [
            "ParticipantJoined", "ParticipantActive", "TrackPublished", "TrackSubscribed", "DataReceived",
        ]  # fmt: skip
        assert list(a.remote_participants["puppet"].track_publications) == [track.sid]


@pytest.mark.parametrize("wrong", [{"identity": 7}, {"identity": "\ud800"}, {"name": None}, {"attributes": {"a": 1}}])
async def test_who_is_not_described_by_text_does_not_come_in_and_the_rooms_go_on(wrong: dict[str, Any]) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as room:
        with pytest.raises(ValueError, match="are text"):
            await rooms.join(**{"room": "r", "identity": "b", **wrong})
        assert [person.identity for person in rooms.participants("r")] == ["a"]
        async with rooms.join("r", "c"):
            await room.wait_for_participant("c", timeout=10)


async def test_no_more_may_join_than_a_room_holds() -> None:
    async with MemoryRooms() as rooms:
        rooms.create_room("r", max_participants=1)
        async with rooms.join("r", "a"), rooms.join("r", "agent", kind=ParticipantKind.AGENT):
            with pytest.raises(RoomConnectError, match="max participants"):
                await rooms.join("r", "b")


# ------------------------------------------------------------------------------------------------ observers


async def test_an_observer_sees_everything_in_order_and_at_once() -> None:
    async with MemoryRooms() as rooms:
        seen: list[ledger.LedgerEvent] = []
        unobserve = rooms.observe(seen.append)
        rooms.create_room("r", metadata="m")
        async with rooms.join("r", "a") as a:
            await a.local_participant.publish_audio()
            await a.local_participant.publish_audio(name="second")
            rooms.update_room_metadata("r", "n")
        rooms.delete_room("r")
        unobserve()
        rooms.create_room("unseen")
        assert [type(event).__name__ for event in seen] == [
            "RoomOpened", "ParticipantEntered", "TrackAdded", "TrackAdded",
            "RoomChanged", "ParticipantGone", "RoomEnded",
        ]  # fmt: skip
        assert [event.first for event in seen if isinstance(event, ledger.TrackAdded)] == [True, False]
        gone = seen[5]
        assert isinstance(gone, ledger.ParticipantGone)
        assert (gone.participant.identity, gone.reason, len(gone.participant.tracks)) == ("a", 1, 2)


async def test_an_observer_may_act_and_its_act_is_told_after() -> None:
    async with MemoryRooms() as rooms:
        seen: list[str] = []

        def bouncer(event: ledger.LedgerEvent) -> None:
            seen.append(type(event).__name__)
            if isinstance(event, ledger.ParticipantEntered) and event.participant.identity == "b":
                rooms.remove_participant("r", "b")

        async with rooms.join("r", "a") as a:
            rooms.observe(bouncer)
            with pytest.raises(RoomConnectError, match="removed while joining"):
                await rooms.join("r", "b")
            await settled()
            assert seen == ["ParticipantEntered", "ParticipantGone"]
            assert dict(a.remote_participants) == {}


# ------------------------------------------------------------------------------------------------ time


async def test_a_room_that_nobody_joins_closes_after_its_empty_timeout() -> None:
    async with MemoryRooms() as rooms:
        rooms.create_room("r", empty_timeout=300)
        await anyio.sleep(299.999)
        assert [room.name for room in rooms.list_rooms()] == ["r"]
        await anyio.sleep(0.002)
        assert rooms.list_rooms() == []


async def test_agents_do_not_keep_a_room_open() -> None:
    async with MemoryRooms() as rooms:
        agent = await rooms.join("r", "agent", kind=ParticipantKind.AGENT)
        person = await rooms.join("r", "person")
        await anyio.sleep(1000)
        await person.disconnect()
        left = anyio.current_time()
        assert (await agent.wait_closed()).reason == DisconnectReason.ROOM_CLOSED
        assert anyio.current_time() - left == 20


async def test_who_comes_back_in_time_keeps_the_room() -> None:
    async with MemoryRooms() as rooms:
        async with rooms.join("r", "a") as a:
            sid = a.sid
        await anyio.sleep(19)
        async with rooms.join("r", "a") as a:
            assert a.sid == sid
            await anyio.sleep(100)


async def test_rooms_end_when_the_server_does() -> None:
    async with MemoryRooms() as rooms:
        room = await rooms.join("r", "a")
    assert (await room.wait_closed()).reason == DisconnectReason.SERVER_SHUTDOWN


async def test_rooms_can_be_left_while_everything_is_cancelled() -> None:
    transports = []
    with anyio.CancelScope() as scope:
        async with MemoryRooms(latency=0.5) as rooms:
            async with rooms.join("r", "a") as room:
                transports.append(room._transport)
                scope.cancel()
                await anyio.sleep_forever()
    assert room.disconnect_reason == DisconnectReason.CLIENT_INITIATED
    await settled()
    assert transports[0].live_handles == 0


async def test_what_takes_time_needs_the_service() -> None:
    rooms = MemoryRooms()
    async with rooms.join("r", "a") as a:
        source = AudioSource(queue_size_ms=10)
        await a.local_participant.publish_audio(source)
        with pytest.raises(RoomError, match="takes time") as caught:
            await source.capture_frame(duration=1)
        assert "async with" in caught.value.hint


async def test_a_second_of_silence_takes_a_second() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        source = AudioSource(queue_size_ms=100)
        await a.local_participant.publish_audio(source)
        started = anyio.current_time()
        for _ in range(110):
            await source.capture_frame(duration=0.01)
        assert anyio.current_time() - started == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------ scripted trouble


async def test_an_interrupted_connection_says_so_and_comes_back_or_not() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard = a.subscribe()
        rooms.interrupt("r", "a")
        await settled()
        assert (kinds(heard), a.connection_state) == (["Reconnecting"], ConnectionState.RECONNECTING)
        rooms.restore("r", "a")
        await settled()
        assert (kinds(heard), a.connection_state) == (["Reconnected"], ConnectionState.CONNECTED)
        rooms.interrupt("r", "a")
        rooms.lose("r", "a")
        assert (await a.wait_closed()).reason == DisconnectReason.UNKNOWN
        with pytest.raises(RoomError, match="no connection"):
            rooms.interrupt("r", "a")


async def test_who_wants_to_know_of_the_connection_is_told_what_is_so_already() -> None:
    told: list[str] = []
    also: list[str] = []
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        a.tell_connection(lambda event: told.append(type(event).__name__))
        rooms.interrupt("r", "a")
        await settled()
        rooms.restore("r", "a")
        await settled()
        assert told == ["Reconnecting", "Reconnected"]
        rooms.interrupt("r", "a")
        await settled()
        told.clear()
        a.tell_connection(lambda event: told.append(type(event).__name__))
        assert told == ["Reconnecting"]
        rooms.restore("r", "a")
        rooms.lose("r", "a")
        await a.wait_closed()
        assert told == ["Reconnecting", "Reconnected", "Disconnected"]
        a.tell_connection(lambda event: also.append(type(event).__name__))
        assert also == ["Disconnected"]


async def test_a_join_can_be_refused_once() -> None:
    async with MemoryRooms() as rooms:
        rooms.refuse_next("engine: signal failure: Bearer hunter2")
        with pytest.raises(RoomConnectError) as caught:
            await rooms.join("r", "a")
        assert "hunter2" not in str(caught.value)
        assert rooms.list_rooms() == []
        await (await rooms.join("r", "a")).disconnect()


async def test_a_join_takes_as_long_as_the_latency() -> None:
    async with MemoryRooms(latency=0.25) as rooms, rooms.join("r", "a"):
        assert anyio.current_time() == 0.25


# ------------------------------------------------------------------------------------------------ overflow


async def test_a_slow_consumer_loses_the_oldest_data_and_no_join() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard = a.subscribe()
        for number in range(1_500):
            rooms.send_data("r", str(number).encode())
        b = await rooms.join("r", "b")
        await settled()
        assert (heard.dropped, len(heard), a.statistics().dropped_events) == (500, 1_002, 500)
        got = drain(heard)
        assert [event.data for event in got[:-2] if isinstance(event, events.DataReceived)] == [
            str(number).encode() for number in range(500, 1_500)
        ]
        assert [type(event) for event in got[-2:]] == [events.ParticipantJoined, events.ParticipantActive]
        heard.close()
        assert a.statistics().dropped_events == 500
        await b.disconnect()


async def test_too_many_unread_joins_end_the_subscription_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from livekit_agent import ResourceExhaustedError
    from livekit_agent.rooms import _subscription

    monkeypatch.setattr(_subscription, "ROOM_LIFECYCLE_EVENTS_MAX", 10)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard, other = a.subscribe(), a.subscribe(events.RoomMetadataChanged)
        for number in range(6):
            await (await rooms.join("r", f"guest-{number}")).disconnect()
        await settled()
        got = []
        with pytest.raises(ResourceExhaustedError) as caught:
            async for event in heard:
                got.append(event)
        assert (len(got), caught.value.resource) == (10, "room_events")
        with pytest.raises(StopAsyncIteration):
            await anext(heard)
        assert len(other) == 0
        assert a.statistics().subscriptions == 1


async def test_subscriptions_end_with_their_block_or_the_room() -> None:
    async with MemoryRooms() as rooms:
        async with rooms.join("r", "a") as a:
            with a.subscribe() as heard:
                assert a.statistics().subscriptions == 1
                assert "everything" in repr(heard)
            assert a.statistics().subscriptions == 0
            assert [event async for event in heard] == []
            await a.subscribe(events.DataReceived).aclose()
            closed = a.subscribe(events.DataReceived)
            closed.close()
            assert a.statistics().subscriptions == 0
            kept = a.subscribe(events.Disconnected)
        assert [event async for event in kept] == [events.Disconnected(reason=1)]


# ------------------------------------------------------------------------------------------------ the same again


async def a_day() -> list[str]:
    rng = random.Random("a day")
    trace: list[str] = []
    async with MemoryRooms(rng=random.Random("ids"), wall_clock=lambda: 0.0) as rooms:
        rooms.observe(lambda event: trace.append(repr(event)))

        async def visit(identity: str) -> None:
            await anyio.sleep(rng.random())
            room: Room
            async with rooms.join("r", identity) as room:
                heard = room.subscribe()
                await room.local_participant.publish_audio()
                await room.local_participant.publish_data(identity)
                await anyio.sleep(rng.random())
                trace.extend(f"{identity} hears {event!r}" for event in drain(heard))

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(visit, f"guest-{number}")
        await anyio.sleep(100)
    return trace


def test_the_same_seed_gives_the_same_day(backend: str) -> None:
    days = [run_virtual(a_day, backend=backend, seed=seed) for seed in (7, 7, 8)]
    assert len(days[0]) > 50
    assert days[0] == days[1]


@pytest.mark.virtual
async def test_without_delays_each_change_of_the_count_is_told_at_once() -> None:
    recorder = ParticipantPermissions(recorder=True, hidden=True)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        await a.wait_until(lambda: a.num_participants == 1)
        async with rooms.join("r", "b") as b, rooms.join("r", "recorder", permissions=recorder):
            await b.local_participant.publish_audio()
            await a.wait_until(lambda: (a.num_participants, a.num_publishers, a.is_recording) == (2, 1, True))
        await a.wait_until(lambda: (a.num_participants, a.num_publishers, a.is_recording) == (1, 0, False))
        assert anyio.current_time() == 0


@pytest.mark.virtual
async def test_a_count_that_was_told_lately_waits_for_the_beat_and_an_old_one_does_not() -> None:
    async with MemoryRooms(delays=Delays(counting=5)) as rooms, rooms.join("r", "a") as a:
        told: list[tuple[float, int]] = []

        def look() -> bool:
            if not told or told[-1][1] != a.num_participants:
                told.append((anyio.current_time(), a.num_participants))
            return False

        async with anyio.create_task_group() as group:
            group.start_soon(a.wait_until, look)
            async with rooms.join("r", "b"):
                await anyio.sleep(12)
                async with rooms.join("r", "c"):  # at once: the last news are 7 s old
                    await anyio.sleep(1)
                # At 13 somebody leaves; the beat of 15 is too soon after 12, so it is told at 20.
                await anyio.sleep(8)
            group.cancel_scope.cancel()
        assert told == [(0, 0), (5, 2), (12, 3), (20, 2)]
