"""End-to-end encryption: who hears what with which key; in memory and on a real livekit-server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from realserver import KEY
from realserver import SECRET as SECRET_OF_KEY
from sounds import TONE, found_tone, hum, level
from venues import PATIENCE, RemoteVenue, Venue, next_of, token

import livekit_agent.rooms._remote_wire as wire
from livekit_agent import RoomClosedError, RoomConnectError, RoomError, RpcError, events
from livekit_agent.dispatch import _room_line
from livekit_agent.dispatch._room_line import RoomLine
from livekit_agent.rooms import (
    AudioFrame,
    ConnectOptions,
    Encryption,
    EncryptionState,
    EncryptionType,
    KeyDerivation,
    MediaStream,
    MemoryRooms,
    RemoteTrack,
    Room,
    RpcCall,
)
from livekit_agent.rooms._memory_encryption import Verdict, digest_of
from livekit_agent.rooms._proto import e2ee, ffi
from livekit_agent.rooms._proto import room as room_pb

SECRET = Encryption(shared_key=b"secret")


async def join(venue: Venue, identity: str, encryption: Encryption | None, **claims: Any) -> Room:
    options = ConnectOptions(encryption=encryption)
    return await venue.rooms.connect(
        venue.url, token(venue.room, identity, **claims), timeout=PATIENCE, options=options
    )


async def track_from(room: Room) -> RemoteTrack:
    with room.subscribe(events.TrackSubscribed, replay=True) as heard:
        return (await next_of(heard, events.TrackSubscribed)).track


async def is_heard(stream: MediaStream[AudioFrame], expected: bool) -> None:
    """The tone, or silence, within a patience: a change takes effect when what is under way has been played."""
    import numpy as np

    with anyio.fail_after(PATIENCE):
        while True:
            while stream.next_nowait() is not None:
                pass
            frames = [await anext(stream) for _ in range(30)]
            samples = np.concatenate([frame.samples.reshape(-1) for frame in frames])
            if expected and level(samples) > 0.03 and abs(found_tone(samples, 48_000)[0] - TONE) < 20:
                return
            if not expected and level(samples) < 0.003:
                return


async def state_is(room: Room, identity: str, state: EncryptionState, heard: Any) -> None:
    await next_of(
        heard,
        events.EncryptionStateChanged,
        lambda event: (event.participant.identity, event.state) == (identity, state),
    )


@asynccontextmanager
async def humming(room: Room) -> AsyncGenerator[str]:
    """Publishes a tone; gives the track's sid."""
    async with anyio.create_task_group() as group:
        publication = await room.local_participant.publish_audio()
        group.start_soon(hum, publication.track.source)
        yield publication.sid
        group.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------ who hears what


async def test_with_the_same_key_it_is_heard_and_both_are_told(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", SECRET) as b:
            at_a, at_b = a.subscribe(events.EncryptionStateChanged), b.subscribe()
            async with humming(a) as sid:
                status = await next_of(at_b, events.EncryptionStatusChanged)
                assert (status.participant.identity, status.encrypted) == ("a", True)
                assert b.remote_participants["a"].encrypted
                track = await track_from(b)
                publication = b.remote_participants["a"].track_publications[sid]
                assert (publication.encryption, publication.mime_type) == (EncryptionType.GCM, "audio/opus")
                own = a.local_participant.track_publications[sid]
                assert own.encryption is EncryptionType.GCM
                with track.audio_frames() as stream:
                    await is_heard(stream, True)
                await state_is(a, "a", EncryptionState.OK, at_a)
                await state_is(b, "a", EncryptionState.OK, at_b)
                for room in (a, b):
                    [cryptor] = room.encryption.cryptors()
                    assert (cryptor.identity, cryptor.track_sid) == ("a", sid)
                    assert (cryptor.key_index, cryptor.enabled) == (0, True)


async def test_with_another_key_there_is_silence_until_the_right_one_is_set(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", Encryption(shared_key=b"wrong")) as b:
            told = b.subscribe(events.EncryptionStateChanged)
            async with humming(a):
                with (await track_from(b)).audio_frames() as stream:
                    await state_is(b, "a", EncryptionState.DECRYPTION_FAILED, told)
                    await is_heard(stream, False)
                    b.encryption.set_shared_key(b"secret")
                    await state_is(b, "a", EncryptionState.OK, told)
                    await is_heard(stream, True)


async def test_without_encryption_an_encrypted_track_is_not_played_as_noise(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", None) as b:
            async with humming(a):
                track = await track_from(b)
                with pytest.raises(RoomError) as caught:
                    track.audio_frames()
                assert caught.value.code == "ROOM_ENCRYPTED"
                await a.local_participant.publish_data_track("sensor")
                with b.subscribe(events.DataTrackPublished, replay=True) as heard:
                    remote = (await next_of(heard, events.DataTrackPublished)).track
                assert remote.encrypted
                with pytest.raises(RoomError) as caught:
                    remote.frames()
                assert caught.value.code == "ROOM_ENCRYPTED"


async def test_who_ceases_to_encrypt_is_not_heard_by_those_who_decrypt(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", SECRET) as b:
            told = b.subscribe(events.EncryptionStateChanged)
            async with humming(a) as sid:
                track = await track_from(b)
                with track.audio_frames() as stream:
                    await is_heard(stream, True)
                    a.encryption.set_track_enabled("a", sid, False)
                    await state_is(b, "a", EncryptionState.DECRYPTION_FAILED, told)
                    await is_heard(stream, False)
                    assert [cryptor.enabled for cryptor in a.encryption.cryptors()] == [False]
                    b.encryption.set_enabled(False)
                    assert not b.encryption.enabled
                    await is_heard(stream, True)
                    with pytest.raises(RoomError, match="disabled"):
                        track.audio_frames()
                    a.encryption.set_track_enabled("a", sid, True)
                    b.encryption.set_enabled(True)
                    await is_heard(stream, True)
                    a.encryption.set_enabled(False)
                    await is_heard(stream, False)


# ------------------------------------------------------------------------------------------------ keys


async def test_a_new_key_under_another_index(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", SECRET) as b:
            told = b.subscribe(events.EncryptionStateChanged)
            async with humming(a) as sid:
                with (await track_from(b)).audio_frames() as stream:
                    await is_heard(stream, True)
                    a.encryption.set_shared_key(b"second", index=1)
                    a.encryption.set_key_index("a", sid, 1)
                    await state_is(b, "a", EncryptionState.MISSING_KEY, told)
                    await is_heard(stream, False)
                    b.encryption.set_shared_key(b"second", index=1)
                    await state_is(b, "a", EncryptionState.OK, told)
                    await is_heard(stream, True)
                    assert [cryptor.key_index for cryptor in a.encryption.cryptors()] == [1]
            assert (a.encryption.shared_key(), a.encryption.shared_key(index=1)) == (b"secret", b"second")
            assert a.encryption.shared_key(index=2) is None


async def test_a_key_is_ratcheted_by_all(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", SECRET) as b:
            async with humming(a):
                with (await track_from(b)).audio_frames() as stream:
                    await is_heard(stream, True)
                    new = a.encryption.ratchet_shared_key()
                    await is_heard(stream, False)
                    assert b.encryption.ratchet_shared_key() == new
                    await is_heard(stream, True)
            # Everybody's library derives the same.
            assert new.hex() == "14ff4f61904663aad993812ea485edbd43b62cd4a3a4b503f1da617d8940eb3c"


async def test_within_the_window_a_ratcheted_key_is_found(venue: Venue) -> None:
    keys = Encryption(shared_key=b"secret", ratchet_window=4)
    async with venue.open():
        if isinstance(venue, RemoteVenue):
            # Keys do not leave their process, so nobody there can try which one follows from which.
            with pytest.raises(RoomConnectError, match="ratcheted keys") as caught:
                await join(venue, "a", keys)
            assert caught.value.code == "ROOM_UNSUPPORTED"
            return
        async with await join(venue, "a", keys) as a, await join(venue, "b", keys) as b:
            told = b.subscribe(events.EncryptionStateChanged)
            async with humming(a):
                with (await track_from(b)).audio_frames() as stream:
                    await is_heard(stream, True)
                    a.encryption.ratchet_shared_key()
                    await state_is(b, "a", EncryptionState.KEY_RATCHETED, told)
                    await state_is(b, "a", EncryptionState.OK, told)
                    await is_heard(stream, True)


async def test_each_participant_has_a_key_of_its_own(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", Encryption()) as a, await join(venue, "b", Encryption()) as b:
            a.encryption.set_key("a", b"hers")
            assert not a.encryption.shared
            told = b.subscribe(events.EncryptionStateChanged)
            async with humming(a):
                with (await track_from(b)).audio_frames() as stream:
                    await state_is(b, "a", EncryptionState.MISSING_KEY, told)
                    b.encryption.set_key("a", b"hers")
                    await state_is(b, "a", EncryptionState.OK, told)
                    await is_heard(stream, True)
                    assert b.encryption.key("a") == b"hers"
                    new = a.encryption.ratchet_key("a")
                    assert b.encryption.ratchet_key("a") == new
                    await is_heard(stream, True)
            for call in (lambda: a.encryption.set_shared_key(b"x"), a.encryption.shared_key):
                with pytest.raises(RoomError) as caught:
                    call()
                assert caught.value.code == "ROOM_NOT_ENCRYPTED"


async def test_other_derivations_and_salts_agree_only_among_themselves(venue: Venue) -> None:
    keys = Encryption(shared_key=b"secret", derivation=KeyDerivation.HKDF, ratchet_salt=b"other", key_ring_size=4)
    async with venue.open():
        async with await join(venue, "a", keys) as a, await join(venue, "b", keys) as b:
            async with humming(a):
                with (await track_from(b)).audio_frames() as stream:
                    await is_heard(stream, True)


async def test_what_makes_no_sense_is_refused(venue: Venue) -> None:
    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", None) as b:
            for call in (
                lambda: a.encryption.set_shared_key(b""),
                lambda: a.encryption.set_shared_key(b"x", index=16),
                lambda: a.encryption.shared_key(index=-1),
                lambda: a.encryption.set_key("b", b"", index=0),
            ):
                with pytest.raises(ValueError, match="key"):
                    call()
            with pytest.raises(RoomError, match="no track"):
                a.encryption.set_track_enabled("a", "TR_nothing", False)
            with pytest.raises(RoomError, match="to ratchet"):
                a.encryption.ratchet_shared_key(index=3)
            assert (a.encryption.available, b.encryption.available, b.encryption.enabled) == (True, False, False)
            with pytest.raises(RoomError) as caught:
                b.encryption.set_key("a", b"x")
            assert caught.value.code == "ROOM_NOT_ENCRYPTED"
        with pytest.raises(RoomClosedError):
            a.encryption.cryptors()


@pytest.mark.virtual
async def test_near_and_far_share_keys_of_which_the_server_has_digests() -> None:
    far = RemoteVenue("both")
    with pytest.MonkeyPatch.context() as patch:
        received: list[bytes] = []
        receive = RoomLine.receive
        patch.setattr(RoomLine, "receive", lambda line, data: (received.append(data), receive(line, data))[1])
        async with far.open():
            options = ConnectOptions(encryption=SECRET)
            a = await join(far, "a", SECRET)
            b = await far.memory.connect("memory:", token("both", "b"), options=options)
            async with a, b, humming(a):
                with (await track_from(b)).audio_frames() as stream:
                    await is_heard(stream, True)
                    a.encryption.set_shared_key(b"secret two")
                    await is_heard(stream, False)
                    b.encryption.set_shared_key(b"secret two")
                    await is_heard(stream, True)
                    a.encryption.set_key("a", b"secret three")
                    b.encryption.set_key("a", a.encryption.ratchet_key("a"))
                    await is_heard(stream, True)
                    await a.wait_for_participant("b")
                    assert a.encryption.key("b") == b"secret two"
                    assert a.encryption.key("nobody") is None
                heard = b.subscribe(events.DataReceived)
                await a.local_participant.publish_data(b"readable")
                assert (await next_of(heard, events.DataReceived)).data == b"readable"
        assert received
        assert not any(b"secret" in data for data in received)


@pytest.mark.virtual
async def test_keys_that_do_not_fit_are_remembered_only_where_it_costs_to_try_them() -> None:
    for window, remembered in ((0, 0), (1, 10)):
        encryption = Encryption(shared_key=b"ours", ratchet_window=window, derivation=KeyDerivation.HKDF)
        options = ConnectOptions(encryption=encryption)
        async with MemoryRooms() as rooms, rooms.join("r", "a", options=options) as room:
            transport: Any = room._link.transport
            for number in range(10):
                assert transport.unseal("b", "TR_b", (0, digest_of(bytes([number])))) is Verdict.SILENCE
            assert len(transport._keys.hopeless) == remembered


@pytest.mark.virtual
async def test_a_server_takes_digests_only_and_not_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_room_line, "REMOTE_HANDLES_MAX", 20)
    digest = b"d" * 32
    async with MemoryRooms({KEY: SECRET_OF_KEY}) as memory:
        line = RoomLine(memory, token("r", "a"))

        def ask(**message: Any) -> list[bytes]:
            """Send it; what is refused."""
            line.receive(wire.encode(wire.REQUEST, 0, ffi.FfiRequest(**message).SerializeToString()))
            said = [wire.decode(data, wire.EVENT, wire.REFUSED) for data in iter(line.outbox.take, None)]
            return [frame.body for frame in said if frame.kind == wire.REFUSED]

        options = room_pb.RoomOptions(encryption=Encryption(shared_key=digest).message())
        assert ask(connect=room_pb.ConnectRequest(url="", token="", options=options, request_async_id=1)) == []
        await anyio.sleep(1)

        def ask_of_keys(**message: Any) -> list[bytes]:
            return ask(e2ee=e2ee.E2eeRequest(room_handle=1, **message))

        assert ask_of_keys(set_key=e2ee.SetKeyRequest(participant_identity="b", key=digest, key_index=0)) == []
        refused = [b"e2ee: keys are digests, and names short"]
        assert ask_of_keys(set_key=e2ee.SetKeyRequest(participant_identity="b", key=b"raw", key_index=0)) == refused
        long = "x" * 5_000
        assert ask_of_keys(set_key=e2ee.SetKeyRequest(participant_identity=long, key=digest, key_index=0)) == refused
        follows = ask_of_keys(ratchet_shared_key=e2ee.RatchetSharedKeyRequest(key_index=0))
        assert follows == [b"e2ee: no digest of the key that follows"]
        assert ask_of_keys() == [b"a request about encryption that asks for nothing"]
        for index in range(30):
            ask_of_keys(set_shared_key=e2ee.SetSharedKeyRequest(shared_key=digest, key_index=index))
        assert line.outbox.fault == (4008, "remote_handles: too many are held")
        line.close()
        await anyio.sleep(1)


def test_what_is_chosen_is_what_the_library_is_told() -> None:
    chosen = Encryption(
        shared_key=b"k", ratchet_salt=b"s", ratchet_window=3, failure_tolerance=7, key_ring_size=4,
        derivation=KeyDerivation.HKDF,
    )  # fmt: skip
    told = chosen.message().key_provider_options
    assert (told.shared_key, told.ratchet_salt, told.ratchet_window_size) == (b"k", b"s", 3)
    assert (told.failure_tolerance, told.key_ring_size, told.key_derivation_function) == (7, 4, KeyDerivation.HKDF)


@pytest.mark.parametrize("wrong", [{"shared_key": b""}, {"key_ring_size": 0}, {"key_ring_size": 1000}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="key"):
        Encryption(**wrong)


@pytest.mark.virtual
async def test_no_key_is_ever_shown() -> None:
    options = ConnectOptions(encryption=SECRET)
    async with MemoryRooms() as rooms, rooms.join("r", "a", options=options) as a:
        shown = f"{options!r} {SECRET!r} {a!r} {a.encryption!r} {a.local_participant!r} {a._transport!r}"
        assert "secret" not in shown
        assert repr(a.encryption) == "<RoomEncryption: shared key>"


# ------------------------------------------------------------------------------------------------ data


async def test_data_are_read_only_by_those_with_the_key(venue: Venue) -> None:
    async def echo(call: RpcCall) -> str:
        return call.payload

    async with venue.open():
        async with await join(venue, "a", SECRET) as a, await join(venue, "b", SECRET) as b:
            other = Encryption(shared_key=b"other")
            async with await join(venue, "w", other) as w, await join(venue, "x", None) as x:
                kinds = (events.DataReceived, events.ChatReceived)
                heard = {room: room.subscribe(*kinds) for room in (a, b, w, x)}
                with b.text_streams() as texts, w.text_streams() as hidden, x.text_streams() as also:
                    me = a.local_participant
                    await me.publish_data(b"packet")
                    await me.send_chat("chat")
                    await me.send_text("stream", topic="t")
                    await x.local_participant.publish_data(b"plain")
                    got = {b: [b"packet", "chat", b"plain"], w: [b"plain"], x: [], a: [b"plain"]}
                    for room, expected in got.items():
                        seen: list[Any] = []
                        for _ in expected:
                            with anyio.fail_after(PATIENCE):
                                event: Any = await anext(heard[room])
                            seen.append(event.data if isinstance(event, events.DataReceived) else event.message.text)
                        assert seen == expected
                        assert len(heard[room]) == 0
                    with anyio.fail_after(PATIENCE):
                        assert await (await anext(texts)).read_all() == "stream"
                    assert (len(hidden._waiting), len(also._waiting)) == (0, 0)
                async with b.serve_rpc({"echo": echo}), w.serve_rpc({"echo": echo}):
                    assert await me.perform_rpc("b", "echo", "hi") == "hi"
                    with pytest.raises(RpcError):
                        await me.perform_rpc("w", "echo", "hi", timeout=1)
