"""Chat, transcriptions and telephone tones, in memory and on a real livekit-server."""

from __future__ import annotations

import time

import anyio
import pytest
from venues import Venue, next_of

from livekit_agent import RoomClosedError, RoomPermissionError, events
from livekit_agent.rooms import TranscriptionSegment


async def test_a_chat_message_is_sent_and_edited(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            heard = b.subscribe(events.ChatReceived)
            sent = await a.local_participant.send_chat("hällo")
            first = await next_of(heard, events.ChatReceived)
            assert (first.message, first.message.text) == (sent, "hällo")
            assert (first.participant, first.identity) == (b.remote_participants["a"], "a")
            assert sent.edited_at is None
            assert abs(sent.sent_at - time.time()) < 600
            edited = await a.local_participant.edit_chat(sent, "hello")
            second = await next_of(heard, events.ChatReceived)
            assert (second.message.id, second.message.text) == (sent.id, "hello")
            assert (edited.text, second.message.edited_at) == ("hello", edited.edited_at)
            assert edited.edited_at is not None


async def test_chat_goes_only_where_it_is_sent(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, await venue.join("c") as c:
            await venue.introduce(a, b, c)
            to_b, to_c = b.subscribe(events.ChatReceived), c.subscribe(events.ChatReceived)
            await a.local_participant.send_chat("for c", destination_identities=["c"])
            await a.local_participant.send_chat("for all")
            assert (await next_of(to_b, events.ChatReceived)).message.text == "for all"
            assert [(await next_of(to_c, events.ChatReceived)).message.text for _ in range(2)] == ["for c", "for all"]


async def test_an_agent_says_what_was_said(venue: Venue) -> None:
    said = TranscriptionSegment(id="1", text="good mörning", start=0.5, end=1.25, final=False, language="en")
    async with venue.open():
        async with await venue.join("a", kind="agent") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            heard = b.subscribe(events.TranscriptionReceived)
            tracks = b.subscribe(events.TrackPublished)
            track = (await a.local_participant.publish_audio()).sid
            await next_of(tracks, events.TrackPublished)
            await a.local_participant.publish_transcription([said], track_sid=track)
            got = await next_of(heard, events.TranscriptionReceived)
            assert (got.segments, got.track_sid, got.identity) == ((said,), track, "a")
            assert got.participant is b.remote_participants["a"]


async def test_only_an_agent_may_say_what_was_said(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            with pytest.raises(RoomPermissionError, match="only an agent"):
                await a.local_participant.publish_transcription([], track_sid="TR_x")


async def test_telephone_tones_go_both_ways(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            to_a, to_b = a.subscribe(events.DtmfReceived), b.subscribe(events.DtmfReceived)
            for key in "1#D":
                await a.local_participant.publish_dtmf(key)
            got = [await next_of(to_b, events.DtmfReceived) for _ in range(3)]
            assert [(tone.digit, tone.code) for tone in got] == [("1", 1), ("#", 11), ("D", 15)]
            assert (got[0].participant, got[0].identity) == (b.remote_participants["a"], "a")
            await b.local_participant.publish_dtmf("*", destination_identities=["a"])
            assert (await next_of(to_a, events.DtmfReceived)).digit == "*"
            with pytest.raises(ValueError, match="no key 'x'"):
                await a.local_participant.publish_dtmf("x")


async def test_messages_without_permission_are_refused_at_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", kind="agent", grants={"canPublishData": False}) as a:
            me = a.local_participant
            started = anyio.current_time()
            for call in (me.send_chat("x"), me.publish_transcription([], track_sid="x"), me.publish_dtmf("1")):
                with pytest.raises(RoomPermissionError):
                    await call
            assert anyio.current_time() - started < 5
        with pytest.raises(RoomClosedError):
            await me.send_chat("x")
