"""The room wire without I/O: what is a message, what may wait, what the participant's side knows by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_agent.rooms import _remote_wire as wire
from livekit_agent.rooms._memory_transport import MemoryTransport
from livekit_agent.rooms._proto import audio, ffi, video
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._remote_mirror import answerable
from livekit_agent.rooms._transport import CONSUMED

KINDS = (wire.REQUEST, wire.EVENT, wire.DROP, wire.REFUSED)


@given(st.sampled_from(KINDS), st.integers(0, 2**64 - 1), st.binary(max_size=99), st.lists(st.binary(max_size=99)))
def test_a_message_is_read_as_it_was_written(kind: int, number: int, body: bytes, buffers: list[bytes]) -> None:
    data = wire.encode(kind, number, body, buffers)
    assert wire.decode(data, *KINDS) == (kind, number, body, tuple(buffers))


def test_what_is_cut_short_or_of_another_kind_is_no_message() -> None:
    data = wire.encode(wire.REQUEST, 7, b"body")
    for size in range(len(data)):
        with pytest.raises(wire.WireError):
            wire.decode(data[:size], *KINDS)
    with pytest.raises(wire.WireError, match="kind 1"):
        wire.decode(data, wire.EVENT, wire.REFUSED)
    with pytest.raises(wire.WireError, match="without its size"):
        wire.decode(data + b"\0", *KINDS)


def test_a_body_is_a_whole_message_of_text_that_is_text() -> None:
    metadata = room_pb.SetLocalMetadataRequest(local_participant_handle=1, metadata="abc", request_async_id=2)
    body = ffi.FfiRequest(set_local_metadata=metadata).SerializeToString()
    assert wire.parse(ffi.FfiRequest, body).set_local_metadata.metadata == "abc"
    for bad in (b"", b"\xff", body[:-1], body.replace(b"abc", b"\xff\xfe\xfd"), ffi.FfiRequest().SerializeToString()):
        with pytest.raises(wire.WireError):
            wire.parse(ffi.FfiRequest, bad)


def test_every_pointer_of_a_picture_is_found_and_means_a_place_in_a_buffer() -> None:
    picture = video.VideoBufferInfo(type=5, width=2, height=2, data_ptr=100)  # type: ignore[arg-type]
    picture.components.add(data_ptr=104, stride=1, size=1)
    request = ffi.FfiRequest(
        capture_video_frame=video.CaptureVideoFrameRequest(source_handle=1, buffer=picture, timestamp_us=0, rotation=0)  # type: ignore[arg-type]
    )
    assert [pointed.data_ptr for pointed in wire.pointers(request)] == [100, 104]
    assert wire.placed(wire.place(2, 3), [b"", b"abc"]) == (1, 3)
    for pointer in (0, 5, wire.place(3), wire.place(2, 4)):
        with pytest.raises(wire.WireError):
            wire.placed(pointer, [b"", b"abc"])


def test_frames_that_nobody_takes_go_oldest_first_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REMOTE_MEDIA_BYTES_MAX", 10)
    outbox = wire.Outbox()
    outbox.put(b"first")
    for frame in (b"1111", b"2222", b"3333"):
        outbox.put(frame, media=True)
    outbox.put(b"last")
    assert (outbox.dropped, outbox.fault) == (1, None)
    assert [outbox.take() for _ in range(5)] == [b"first", b"2222", b"3333", b"last", None]
    outbox.put(b"larger than all", media=True)
    assert outbox.take() == b"larger than all"


def test_what_must_arrive_and_is_not_taken_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REMOTE_OUTBOX_BYTES_MAX", 10)
    outbox = wire.Outbox()
    woken: list[int] = []
    outbox.wake = lambda: woken.append(1)
    outbox.put(b"12345")
    assert outbox.fault is None
    outbox.put(b"678901")
    assert outbox.fault == (4008, "remote_outbox: the other side does not read")
    assert woken
    outbox.put(b"later")
    outbox.fail(4002, "another")
    assert (outbox.take(), outbox.fault.code) == (None, 4008)


def test_every_request_that_rooms_in_memory_know_can_be_answered_from_afar() -> None:
    known = [name.removeprefix("_do_") for name in dir(MemoryTransport) if name.startswith("_do_")]
    assert len(known) > 30
    assert [kind for kind in known if not answerable(kind)] == []
    assert not answerable("video_convert")
    assert set(CONSUMED) <= set(known)


def test_the_handle_that_an_answer_gives_is_found() -> None:
    assert wire.new_handle_of("new_audio_source") == ("source", "handle")
    assert wire.new_handle_of("publish_data") == ()
    answer = ffi.FfiResponse(new_audio_source=audio.NewAudioSourceResponse())
    assert answer.WhichOneof("message") == "new_audio_source"
