"""Connections: how they are made, what they cost, how they break and come back; in memory and on a real server."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from sounds import hum
from test_conformance import feed
from venues import PATIENCE, NativeVenue, RemoteVenue, Venue, next_of, token, until

from livekit_agent import ApiError, RoomClosedError, RoomConnectError, events
from livekit_agent.rooms import (
    ConnectionState,
    ConnectOptions,
    DisconnectReason,
    IceServer,
    IceTransport,
    MemoryRooms,
    Room,
    Scenario,
    VideoFrame,
    VideoOptions,
    VideoSource,
)
from livekit_agent.rooms._room import _connect_error

#: A full reconnect joins anew, and a server holds the news of it back for up to 3 s.
SLOW = 2 * PATIENCE


async def join(venue: Venue, identity: str, options: ConnectOptions, url: str = "", **claims: Any) -> Room:
    return await venue.rooms.connect(
        url or venue.url, token(venue.room, identity, **claims), timeout=PATIENCE, options=options
    )


def dead_url(venue: Venue) -> str:
    """Where nobody answers."""
    if isinstance(venue, RemoteVenue):
        pytest.skip("a connection to the one server that there is")
    if venue.real:
        return "ws://127.0.0.1:9"
    venue.rooms.unreachable.append("memory:dead")
    return "memory:dead"


# ------------------------------------------------------------------------------------------------ joining


async def test_a_dead_url_is_followed_by_the_next_one(venue: Venue, caplog: pytest.LogCaptureFixture) -> None:
    async with venue.open():
        dead = dead_url(venue)
        with caplog.at_level(logging.WARNING, logger="livekit_agent.rooms"):
            async with await join(venue, "a", ConnectOptions(fallback_urls=(dead, venue.url)), url=dead) as room:
                assert room.is_open
        assert len(caplog.records) == 2
        assert "refused" in caplog.text
        assert "eyJ" not in caplog.text


async def test_when_no_url_is_alive_the_last_error_is_told(venue: Venue) -> None:
    async with venue.open():
        dead = dead_url(venue)
        with pytest.raises(RoomConnectError, match="refused"):
            await join(venue, "a", ConnectOptions(fallback_urls=(dead,)), url=dead)


async def test_a_refused_token_ends_it_at_the_first_url(venue: Venue, caplog: pytest.LogCaptureFixture) -> None:
    async with venue.open():
        bad = token(venue.room, "a")[:-6] + "AAAAAA"
        with pytest.raises(RoomConnectError) as caught:
            await venue.rooms.connect(venue.url, bad, options=ConnectOptions(fallback_urls=(dead_url(venue),)))
        assert caught.value.code == "ROOM_REFUSED"
        assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("signal failure: client error: 401 Unauthorized - invalid token: eyJhbGciOiJIUzI1NiJ9.eyJl.x", "ROOM_REFUSED"),
        ("signal failure: client error: 401", "ROOM_REFUSED"),
        ("signal failure: Connection refused: ws://127.0.0.1:4010/rtc", "ROOM_CONNECT_FAILED"),
        (
            "signal failure: timed out: ws://h:401/rtc?access_token=eyJhbGciOiJ9.eyJ401.401",
            "ROOM_CONNECT_FAILED",
        ),
        ("signal failure: client error: 404 Not Found - room-401", "ROOM_CONNECT_FAILED"),
    ],
)
def test_a_port_or_a_token_with_the_digits_of_a_refusal_is_none(text: str, code: str) -> None:
    assert _connect_error(text).code == code


@pytest.mark.virtual
async def test_a_url_that_never_answers_leaves_time_for_the_others() -> None:
    async with MemoryRooms() as rooms:
        rooms.hang_next()
        pass_ = token("r", "a")
        async with await rooms.connect("x:", pass_, timeout=8, options=ConnectOptions(fallback_urls=("y:",))):
            assert anyio.current_time() == 4


async def test_a_room_is_joined_with_every_option_set(venue: Venue) -> None:
    options = ConnectOptions(
        attempt_timeout=4,
        join_retries=1,
        single_peer_connection=False,
        dynacast=True,
        adaptive_stream=True,
        ice_servers=(IceServer(urls=("stun:127.0.0.1:9",), username="u", password="geheim"),),
        ice_transport=IceTransport.ALL,
        gather_continually=False,
        stream_payload_bytes=1_000_000,
    )
    assert "geheim" not in repr(options)
    async with venue.open():
        async with await join(venue, "a", options) as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            heard = b.subscribe(events.DataReceived)
            await a.local_participant.publish_data(b"there")
            assert (await next_of(heard, events.DataReceived)).data == b"there"


def test_options_become_the_messages_that_the_library_knows() -> None:
    message = ConnectOptions().message(auto_subscribe=True, timeout=20)
    assert {field.name for field, _ in message.ListFields()} == {
        "auto_subscribe", "adaptive_stream", "dynacast", "join_retries", "connect_timeout_ms",
    }  # fmt: skip
    assert message.connect_timeout_ms == 5000
    relay = ConnectOptions(ice_transport=IceTransport.RELAY, gather_continually=True, single_peer_connection=True)
    message = relay.message(auto_subscribe=False, timeout=2)
    assert (message.connect_timeout_ms, message.auto_subscribe) == (2000, False)
    assert (message.rtc_config.ice_transport_type, message.rtc_config.continual_gathering_policy) == (0, 1)
    assert message.single_peer_connection


# ------------------------------------------------------------------------------------------------ what is known


async def test_what_the_server_says_of_the_room_and_the_newest_token_are_kept(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            heard = a.subscribe(events.RoomMetadataChanged)
            await venue.update_room("x")
            await next_of(heard, events.RoomMetadataChanged)
            await until(lambda: a.token)
            assert a.token not in repr(a)
            assert (a.empty_timeout, a.departure_timeout, a.max_participants) == (300, 20, 0)
            assert a.created_at > 1_000_000_000 or not venue.real
            assert (a.is_recording, a.num_publishers) == (False, 0)


async def test_who_records_is_told(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            heard = a.subscribe(events.RecordingChanged)
            recorder = await venue.join("recorder", grants={"recorder": True, "hidden": True})
            assert (await next_of(heard, events.RecordingChanged)).recording
            assert a.is_recording
            await recorder.disconnect()
            assert not (await next_of(heard, events.RecordingChanged)).recording


@pytest.mark.virtual
async def test_who_is_moved_is_told_where_to() -> None:
    """An open-source server moves nobody (see below); this is what the library would tell."""
    from livekit_agent.rooms._proto import room as room_pb

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard = a.subscribe(events.RoomMoved)
        transport: Any = a._transport
        info = room_pb.RoomInfo()
        info.CopyFrom(room_pb.RoomInfo(name="elsewhere", sid="RM_other", metadata="m"))
        transport._tell(moved=info)
        assert await anext(heard) == events.RoomMoved(previous_name="r", name="elsewhere")
        assert (a.name, a.sid, a.metadata) == ("elsewhere", "RM_other", "m")


@pytest.mark.real_server
async def test_an_open_source_server_moves_nobody(native: NativeVenue) -> None:
    """So a real ``RoomMoved`` cannot be seen here: the day on which this fails, it can."""
    from livekit.protocol import room as room_pb

    async with native.open():
        async with await native.join("a"):
            request = room_pb.MoveParticipantRequest(room=native.room, identity="a", destination_room="elsewhere")
            grant = {"roomAdmin": True, "room": native.room, "destinationRoom": "elsewhere"}
            with pytest.raises(ApiError) as caught:
                await native.api.call("RoomService", "MoveParticipant", request, room_pb.MoveParticipantResponse, grant)
            assert (caught.value.status, caught.value.twirp_code) == (500, "unknown")
            assert "not implemented" in caught.value.message
            assert await native.present() == ["a"]


# ------------------------------------------------------------------------------------------------ what it costs


async def test_the_connection_counts_what_went_over_it(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            heard = b.subscribe(events.TrackSubscribed, events.DataReceived)
            publication = await a.local_participant.publish_audio()
            group.start_soon(feed, publication.track.source)
            subscribed = await next_of(heard, events.TrackSubscribed)
            await a.wait_for_participant("b", active=True, timeout=PATIENCE)
            await a.local_participant.publish_data(bytes(1000))
            await next_of(heard, events.DataReceived)
            with anyio.fail_after(PATIENCE):
                while True:
                    ours, theirs = await a.rtc_statistics(), await b.rtc_statistics()
                    counted = [entry.packets_sent for entry in ours.outbound]
                    counted += [entry.packets_received for entry in theirs.inbound]
                    if len(counted) == 2 and all(counted) and (not venue.real or ours.round_trip_time is not None):
                        break
                    await anyio.sleep(0.05)
            reliable = ours.channel("_reliable")
            assert reliable is not None
            assert reliable.messages_sent >= 1
            assert reliable.bytes_sent >= 1000
            [out] = ours.outbound
            assert out.kind == "audio"
            assert out.packets_sent > 0
            assert [entry.kind for entry in theirs.inbound] == ["audio"]
            assert theirs.inbound[0].packets_received > 0
            assert ours.channel("none") is None
            assert (ours.round_trip_time is not None) == venue.real
            assert bool(ours.others) == venue.real
            track = await publication.rtc_statistics()
            assert track.outbound[0].packets_sent > 0
            assert (await subscribed.track.rtc_statistics()).inbound[0].packets_received > 0
            group.cancel_scope.cancel()
        with pytest.raises(RoomClosedError):
            await a.rtc_statistics()


async def test_a_track_counts_what_is_its_own(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            pictures = VideoSource(320, 240)
            voice = await a.local_participant.publish_audio()
            film = await a.local_participant.publish_video(pictures, options=VideoOptions(simulcast=False))
            group.start_soon(hum, voice.track.source)  # silence is not sent for long
            group.start_soon(show, pictures)
            for publication, kind in ((voice, "audio"), (film, "video")):
                track = await b.wait_for_track("a", name=publication.name, timeout=PATIENCE)
                with anyio.fail_after(PATIENCE):
                    # Before its first packet a track that comes has no entry.
                    while not (entries := (await track.rtc_statistics()).inbound) or not entries[0].packets_received:  # noqa: ASYNC110
                        await anyio.sleep(0.05)
                [sent], [came] = (await publication.rtc_statistics()).outbound, entries
                assert (sent.kind, came.kind) == (kind, kind)
                assert (sent.bytes_sent > 0, came.bytes_received > 0) == (True, True)
                assert venue.real or came.packets_lost == 0
                # A track is counted at either end in one direction.
                assert (await publication.rtc_statistics()).inbound == ()
                assert (await track.rtc_statistics()).outbound == ()
                with anyio.fail_after(PATIENCE):
                    later = sent
                    while later.packets_sent == sent.packets_sent:
                        await anyio.sleep(0.05)
                        [later] = (await publication.rtc_statistics()).outbound
                assert later.packets_sent > sent.packets_sent
                assert later.ssrc == sent.ssrc
            whole = await a.rtc_statistics()
            assert sorted(entry.kind for entry in whole.outbound) == ["audio", "video"]
            group.cancel_scope.cancel()
        with pytest.raises(RoomClosedError):
            await voice.rtc_statistics()
        with pytest.raises(RoomClosedError):
            await track.rtc_statistics()


async def show(source: VideoSource) -> None:
    frame = VideoFrame(data=bytes(320 * 240 * 4), width=320, height=240)
    while True:
        source.capture_frame(frame)
        await anyio.sleep(0.03)


# ------------------------------------------------------------------------------------------------ breaking


async def test_a_resume_keeps_everything_as_it_was(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            other = b.subscribe()
            sid, publication = a.local_participant.sid, await a.local_participant.publish_audio()
            track = publication.sid
            # A library that is still negotiating cannot resume, and connects anew.
            group.start_soon(feed, publication.track.source)
            await next_of(other, events.TrackSubscribed)
            heard = a.subscribe()
            await a.simulate(Scenario.SIGNAL_RECONNECT)
            await next_of(heard, events.Reconnecting)
            assert a.connection_state is ConnectionState.RECONNECTING
            await next_of(heard, events.Reconnected)
            assert a.connection_state is ConnectionState.CONNECTED
            assert (a.local_participant.sid, publication.sid) == (sid, track)
            await b.local_participant.publish_data(b"still here")
            seen: list[events.RoomEvent] = []
            with anyio.fail_after(PATIENCE):
                async for event in heard:
                    seen.append(event)
                    if isinstance(event, events.DataReceived):
                        break
            assert not [event for event in seen if isinstance(event, events.Rejoined | events.ParticipantLeft)]
            left = [event for event in iter(other.next_nowait, None) if isinstance(event, events.ParticipantLeft)]
            assert left == []
            group.cancel_scope.cancel()


async def test_a_full_reconnect_is_a_new_visit_with_tracks_published_anew(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            at_b = b.subscribe()
            publication = await a.local_participant.publish_audio(name="voice")
            group.start_soon(feed, publication.track.source)
            first = await next_of(at_b, events.TrackSubscribed)
            await b.local_participant.publish_audio(name="other")
            at_a = a.subscribe()
            sid, track = a.local_participant.sid, publication.sid
            await a.simulate(Scenario.FULL_RECONNECT)
            # To us: broken, our track anew, back, and a new visit.
            await next_of(at_a, events.Reconnecting)
            with anyio.fail_after(SLOW):
                again = await next_of(at_a, events.LocalTrackRepublished)
                assert (again.publication, again.previous_sid) == (publication, track)
                await next_of(at_a, events.Reconnected)
                rejoined = await next_of(at_a, events.Rejoined)
            assert (rejoined.participant, rejoined.previous_sid) == (a.local_participant, sid)
            assert a.local_participant.sid != sid
            assert publication.sid != track
            assert dict(a.local_participant.track_publications) == {publication.sid: publication}
            # To the other: gone and come back, with the track under its new sid.
            with anyio.fail_after(SLOW):
                assert (await next_of(at_b, events.TrackUnsubscribed)).track is first.track
                await next_of(at_b, events.TrackUnpublished)
                await next_of(at_b, events.ParticipantLeft)
                await next_of(at_b, events.ParticipantJoined)
                second = await next_of(at_b, events.TrackSubscribed)
            assert second.publication.sid == publication.sid
            assert second.track is not first.track
            await until(lambda: list(a.remote_participants) == ["b"])
            # And the track is alive: both sides work as before.
            publication.mute()
            assert (await next_of(at_b, events.TrackMuted)).publication is second.publication
            await a.local_participant.publish_data(b"back")
            assert (await next_of(at_b, events.DataReceived)).identity == "a"
            group.cancel_scope.cancel()


async def test_a_data_track_comes_back_under_its_name_after_a_full_reconnect(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            heard = b.subscribe(events.DataTrackPublished, events.DataTrackUnpublished)
            track = await a.local_participant.publish_data_track("sensor")
            first = (await next_of(heard, events.DataTrackPublished)).track
            stream = first.frames()
            await a.simulate(Scenario.FULL_RECONNECT)
            with anyio.fail_after(SLOW):
                assert [frame async for frame in stream] == []
                assert (await next_of(heard, events.DataTrackUnpublished)).track is first
                second = (await next_of(heard, events.DataTrackPublished)).track
            assert (second.name, second.sid == first.sid) == ("sensor", False)
            with second.frames() as frames, anyio.fail_after(PATIENCE):
                while frames.statistics().waiting == 0:
                    track.push(b"anew")
                    await anyio.sleep(0.05)
                assert (await anext(frames)).payload == b"anew"


async def test_who_is_sent_away_by_the_server_is_told_so_once(venue: Venue) -> None:
    async with venue.open():
        a = await venue.join("a")
        heard = a.subscribe(events.Disconnected)
        await a.simulate(Scenario.SERVER_LEAVE)
        with anyio.fail_after(PATIENCE):
            got = [event async for event in heard]
        assert got == [events.Disconnected(reason=DisconnectReason.SERVER_SHUTDOWN)]
        with pytest.raises(RoomClosedError):
            await a.simulate(Scenario.SPEAKER)


@pytest.mark.virtual
async def test_who_speaks_is_simulated() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        heard = a.subscribe(events.ActiveSpeakersChanged)
        await a.simulate(Scenario.SPEAKER)
        assert [p.identity for p in (await next_of(heard, events.ActiveSpeakersChanged)).speakers] == ["a"]
        assert (await next_of(heard, events.ActiveSpeakersChanged)).speakers == ()
