"""What we use of the native library's protocol exists in the installed one, under the names that we use."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

import livekit_agent.rooms
from livekit_agent.rooms import _memory_transport, _proto, _updates
from livekit_agent.rooms._proto import (
    audio,
    data_track,
    e2ee,
    ffi,
    handle,
    participant,
    room,
    rpc,
    track,
    track_publication,
    video,
)
from livekit_agent.rooms._transport import ROUTED_BY_HANDLE

SOURCE = Path(livekit_agent.rooms.__file__).parent

E2EE = (
    "manager_set_enabled manager_get_frame_cryptors cryptor_set_enabled cryptor_set_key_index "
    "set_shared_key ratchet_shared_key get_shared_key set_key ratchet_key get_key"
)

# request -> the fields that are set, the fields of its response, of its callback (None: it has none)
REQUESTS: dict[str, tuple[str, str, str | None]] = {
    "connect": ("url token options request_async_id", "async_id", "async_id error result"),
    "ready_for_room_event": ("room_handle", "", None),
    "disconnect": ("room_handle reason request_async_id", "async_id", "async_id"),
    "publish_data": (
        "local_participant_handle data_ptr data_len reliable topic destination_identities request_async_id",
        "async_id",
        "async_id error",
    ),
    "set_local_metadata": ("local_participant_handle metadata request_async_id", "async_id", "async_id error"),
    "set_local_name": ("local_participant_handle name request_async_id", "async_id", "async_id error"),
    "set_local_attributes": ("local_participant_handle attributes request_async_id", "async_id", "async_id error"),
    "set_subscribed": ("subscribe publication_handle", "", None),
    "enable_remote_track_publication": ("track_publication_handle enabled", "", None),
    "set_remote_track_publication_quality": ("track_publication_handle quality", "", None),
    "update_remote_track_publication_dimension": ("track_publication_handle width height", "", None),
    "set_track_subscription_permissions": (
        "local_participant_handle all_participants_allowed permissions",
        "",
        None,
    ),
    "capture_encoded_video_frame": (
        "source_handle buffer codec frame_type width height timestamp_us metadata",
        "accepted",
        None,
    ),
    "take_encoded_video_source_feedback": ("source_handle", "keyframe_requested rate_control", None),
    "new_apm": (
        "echo_canceller_enabled gain_controller_enabled high_pass_filter_enabled noise_suppression_enabled",
        "apm",
        None,
    ),
    "apm_process_stream": ("apm_handle data_ptr size sample_rate num_channels", "error", None),
    "apm_process_reverse_stream": ("apm_handle data_ptr size sample_rate num_channels", "error", None),
    "apm_set_stream_delay": ("apm_handle delay_ms", "error", None),
    "new_sox_resampler": (
        "input_rate output_rate num_channels input_data_type output_data_type quality_recipe flags",
        "resampler error",
        None,
    ),
    "push_sox_resampler": ("resampler_handle data_ptr size", "output_ptr size error", None),
    "flush_sox_resampler": ("resampler_handle", "output_ptr size error", None),
    "video_convert": ("flip_y buffer dst_type", "error buffer", None),
    "load_audio_filter_plugin": ("plugin_path dependencies module_id", "error", None),
    "create_audio_track": ("name source_handle", "track", None),
    "publish_track": (
        "local_participant_handle track_handle options request_async_id",
        "async_id",
        "async_id error publication",
    ),
    "unpublish_track": (
        "local_participant_handle track_sid stop_on_unpublish request_async_id",
        "async_id",
        "async_id error",
    ),
    "local_track_mute": ("track_handle mute", "muted", None),
    "new_audio_source": ("type sample_rate num_channels queue_size_ms", "source", None),
    "capture_audio_frame": ("source_handle buffer request_async_id", "async_id", "async_id error"),
    "clear_audio_buffer": ("source_handle", "", None),
    "new_audio_stream": (
        "track_handle type sample_rate num_channels frame_size_ms audio_filter_module_id audio_filter_options",
        "stream",
        None,
    ),
    "new_video_source": ("type resolution is_screencast", "source", None),
    "create_video_track": ("name source_handle", "track", None),
    "capture_video_frame": ("source_handle buffer timestamp_us rotation metadata", "", None),
    "new_video_stream": ("track_handle type format normalize_stride", "stream", None),
    "perform_rpc": (
        (
            "local_participant_handle destination_identity method payload response_timeout_ms "
            "max_round_trip_latency_ms request_async_id"
        ),
        "async_id",
        "async_id payload error",
    ),
    "text_stream_open": ("local_participant_handle options request_async_id", "async_id", "async_id writer error"),
    "byte_stream_open": ("local_participant_handle options request_async_id", "async_id", "async_id writer error"),
    "text_stream_write": ("writer_handle text request_async_id", "async_id", None),
    "byte_stream_write": ("writer_handle bytes request_async_id", "async_id", None),
    "text_stream_close": ("writer_handle reason attributes request_async_id", "async_id", None),
    "byte_stream_close": ("writer_handle reason attributes request_async_id", "async_id", None),
    "text_read_incremental": ("reader_handle", "", None),
    "byte_read_incremental": ("reader_handle", "", None),
    "send_chat_message": (
        "local_participant_handle message destination_identities request_async_id",
        "async_id",
        None,
    ),
    "edit_chat_message": (
        "local_participant_handle edit_text original_message destination_identities request_async_id",
        "async_id",
        None,
    ),
    "publish_transcription": (
        "local_participant_handle participant_identity track_id segments request_async_id",
        "async_id",
        "async_id error",
    ),
    "publish_sip_dtmf": (
        "local_participant_handle code digit destination_identities request_async_id",
        "async_id",
        "async_id error",
    ),
    "publish_data_track": ("local_participant_handle options request_async_id", "async_id", "async_id track error"),
    "local_data_track_try_push": ("track_handle frame", "error", None),
    "local_data_track_unpublish": ("track_handle", "", None),
    "local_data_track_is_published": ("track_handle", "is_published", None),
    "subscribe_data_track": ("track_handle options", "stream", None),
    "data_track_stream_read": ("stream_handle", "eos_event", None),
    "remote_data_track_set_pipeline_options": ("track_handle options", "", None),
    "define_schema": (
        "local_participant_handle schema_id definition request_async_id",
        "async_id",
        "async_id error",
    ),
    "get_schema": (
        "local_participant_handle schema_id participant_identity request_async_id",
        "async_id",
        "async_id definition error",
    ),
    "get_session_stats": ("room_handle request_async_id", "async_id", "async_id error result"),
    "get_stats": ("track_handle request_async_id", "async_id", "async_id error stats"),
    "simulate_scenario": ("room_handle scenario request_async_id", "async_id", "async_id error"),
    "e2ee": (
        f"room_handle {E2EE}",
        "manager_get_frame_cryptors ratchet_shared_key get_shared_key ratchet_key get_key",
        None,
    ),
    "set_data_channel_buffered_amount_low_threshold": ("local_participant_handle threshold kind", "", None),
    "register_rpc_method": ("local_participant_handle method", "", None),
    "unregister_rpc_method": ("local_participant_handle method", "", None),
    "rpc_method_invocation_response": ("local_participant_handle invocation_id payload error", "error", None),
}

# Computation, not rooms: rooms in memory use the library's as well.
WITHOUT_ROOMS = {
    "new_apm",
    "apm_process_stream",
    "apm_process_reverse_stream",
    "apm_set_stream_delay",
    "new_sox_resampler",
    "push_sox_resampler",
    "flush_sox_resampler",
    "video_convert",
    "load_audio_filter_plugin",
}

# request -> its callback, where that has a name of its own
OTHER_CALLBACKS = {
    "send_chat_message": ("chat_message", "async_id error chat_message"),
    "edit_chat_message": ("chat_message", "async_id error chat_message"),
    "text_stream_write": ("text_stream_writer_write", "async_id error"),
    "byte_stream_write": ("byte_stream_writer_write", "async_id error"),
    "text_stream_close": ("text_stream_writer_close", "async_id error"),
    "byte_stream_close": ("byte_stream_writer_close", "async_id error"),
}

EVENT_FIELDS = {
    "participant_connected": "info",
    "participant_active": "participant_identity",
    "participant_disconnected": "participant_identity disconnect_reason",
    "participants_updated": "participants",
    "participant_metadata_changed": "participant_identity metadata",
    "participant_name_changed": "participant_identity name",
    "participant_attributes_changed": "participant_identity attributes changed_attributes",
    "participant_permission_changed": "participant_identity permission",
    "local_track_published": "track_sid",
    "local_track_unpublished": "publication_sid",
    "local_track_republished": "publication_handle previous_sid info",
    "local_track_subscribed": "track_sid",
    "track_published": "participant_identity publication",
    "track_unpublished": "participant_identity publication_sid",
    "track_subscribed": "participant_identity track",
    "track_unsubscribed": "participant_identity track_sid",
    "track_subscription_failed": "participant_identity track_sid error",
    "track_muted": "participant_identity track_sid",
    "track_unmuted": "participant_identity track_sid",
    "active_speakers_changed": "participant_identities",
    "connection_quality_changed": "participant_identity quality",
    "data_packet_received": "kind participant_identity user sip_dtmf",
    "chat_message": "message participant_identity",
    "text_stream_opened": "reader participant_identity",
    "byte_stream_opened": "reader participant_identity",
    "data_track_published": "track",
    "data_track_unpublished": "sid",
    "transcription_received": "participant_identity track_sid segments",
    "data_channel_low_threshold_changed": "kind threshold",
    "e2ee_state_changed": "participant_identity state",
    "participant_encryption_status_changed": "participant_identity is_encrypted",
    "token_refreshed": "token",
    "room_metadata_changed": "metadata",
    "room_sid_changed": "sid",
    "room_updated": (
        "sid name metadata num_participants num_publishers max_participants empty_timeout departure_timeout "
        "creation_time active_recording"
    ),
    "moved": "sid name metadata num_participants num_publishers",
    "connection_state_changed": "state",
    "reconnecting": "",
    "reconnected": "",
    "disconnected": "reason",
    "eos": "",
}

OTHERS = {
    handle.FfiOwnedHandle: "id",
    room.RoomOptions: (
        "auto_subscribe adaptive_stream dynacast join_retries connect_timeout_ms single_peer_connection data_stream "
        "encryption rtc_config"
    ),
    room.RtcConfig: "ice_transport_type continual_gathering_policy ice_servers",
    room.IceServer: "urls username password",
    room.RoomDataStreamOptions: "max_payload_byte_length",
    e2ee.E2eeOptions: "encryption_type key_provider_options",
    e2ee.KeyProviderOptions: (
        "shared_key ratchet_window_size ratchet_salt failure_tolerance key_ring_size key_derivation_function"
    ),
    e2ee.FrameCryptor: "participant_identity track_sid key_index enabled",
    room.ConnectCallback.Result: "room local_participant participants",
    room.ConnectCallback.ParticipantWithTracks: "participant publications",
    room.UserPacket: "data topic",
    room.OwnedBuffer: "handle data",
    room.BufferInfo: "data_ptr data_len",
    room.TrackPublishOptions: (
        "source video_codec simulcast video_encoding audio_encoding dtx red stream preconnect_buffer "
        "frame_metadata_features scalability_mode video_encoder degradation_preference"
    ),
    room.AudioEncoding: "max_bitrate",
    video.EncodedVideoBufferInfo: "data_ptr data_len",
    video.EncodedRateControl: "target_bitrate_bps framerate_fps",
    track.ParticipantTrackPermission: "participant_identity allow_all allowed_track_sids",
    room.VideoEncoding: "max_bitrate max_framerate",
    audio.AudioStreamEvent: "stream_handle frame_received eos",
    audio.AudioFrameReceived: "frame",
    audio.OwnedAudioFrameBuffer: "handle info",
    video.VideoStreamEvent: "stream_handle frame_received eos",
    video.VideoFrameReceived: "buffer timestamp_us rotation metadata",
    video.FrameMetadata: "user_timestamp frame_id user_data",
    video.VideoBufferInfo: "type width height data_ptr stride components",
    video.VideoBufferInfo.ComponentInfo: "data_ptr stride size",
    participant.ParticipantInfo: "sid identity name metadata attributes kind kind_details state permission joined_at",
    participant.ParticipantPermission: (
        "can_subscribe can_publish can_publish_data can_publish_sources hidden can_update_metadata "
        "can_subscribe_metrics can_manage_agent_session"
    ),
    track.TrackPublicationInfo: (
        "sid name kind source muted mime_type remote simulcasted width height audio_features frame_metadata_features"
    ),
    track.TrackInfo: "sid name kind muted",
    room.ChatMessage: "id timestamp message edit_timestamp deleted generated",
    room.TranscriptionSegment: "id text start_time end_time final language",
    room.SipDTMF: "code digit",
    rpc.RpcError: "code message data",
    rpc.RpcMethodInvocationEvent: (
        "local_participant_handle invocation_id method request_id caller_identity payload response_timeout_ms"
    ),
    data_track.DataTrackOptions: "name schema frame_encoding",
    data_track.DataTrackInfo: "name sid uses_e2ee schema frame_encoding",
    data_track.DataTrackSchemaId: "name encoding",
    data_track.DataTrackFrame: "payload user_timestamp",
    data_track.OwnedRemoteDataTrack: "handle info publisher_identity",
    data_track.DataTrackStreamEvent: "stream_handle frame_received eos",
    audio.AudioFrameBufferInfo: "data_ptr num_channels sample_rate samples_per_channel",
}


def missing(descriptor: Descriptor, names: str) -> list[str]:
    return [name for name in names.split() if name not in descriptor.fields_by_name]


def test_the_installed_version_is_one_that_was_checked() -> None:
    assert _proto.installed_version() == version("livekit")
    parts = tuple(int(part) for part in version("livekit").split(".")[:2])
    assert _proto.SUPPORTED[0] <= parts < _proto.SUPPORTED[1]


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_has_the_fields_that_we_use(kind: str) -> None:
    request_fields, response_fields, callback_fields = REQUESTS[kind]
    request = ffi.FfiRequest.DESCRIPTOR.fields_by_name[kind].message_type
    # Editing is answered as sending is.
    answered = "send_chat_message" if kind == "edit_chat_message" else kind
    response = ffi.FfiResponse.DESCRIPTOR.fields_by_name[answered].message_type
    assert missing(request, request_fields) == []
    assert missing(response, response_fields) == []
    if callback_fields is not None:
        assert missing(ffi.FfiEvent.DESCRIPTOR.fields_by_name[kind].message_type, callback_fields) == []
    elif kind in OTHER_CALLBACKS:
        name, fields = OTHER_CALLBACKS[kind]
        assert missing(ffi.FfiEvent.DESCRIPTOR.fields_by_name[name].message_type, fields) == []
    else:
        assert "request_async_id" not in request.fields_by_name


@pytest.mark.parametrize("kind", EVENT_FIELDS)
def test_a_room_event_has_the_fields_that_we_use(kind: str) -> None:
    assert missing(room.RoomEvent.DESCRIPTOR.fields_by_name[kind].message_type, EVENT_FIELDS[kind]) == []


@pytest.mark.parametrize("message", OTHERS, ids=lambda message: message.__name__)
def test_other_messages_have_the_fields_that_we_use(message: type) -> None:
    assert missing(message.DESCRIPTOR, OTHERS[message]) == []  # type: ignore[attr-defined]


def test_every_kind_of_room_event_is_handled_or_knowingly_ignored() -> None:
    [kinds] = [oneof for oneof in room.RoomEvent.DESCRIPTOR.oneofs if oneof.name == "message"]
    ours = {*_updates.HANDLED, "disconnected", "eos"}
    assert {field.name for field in kinds.fields} == ours | _updates.IGNORED
    assert ours == set(EVENT_FIELDS)
    assert not ours & _updates.IGNORED


def test_this_list_names_every_request_that_the_source_makes_and_memory_answers() -> None:
    made = {
        name
        for path in SOURCE.glob("*.py")
        if not path.name.startswith("_memory")
        for name in re.findall(r"FfiRequest\((\w+)=", path.read_text())
    }
    assert made == set(REQUESTS)
    answered = {name[4:] for name in dir(_memory_transport.MemoryTransport) if name.startswith("_do_")}
    assert answered == set(REQUESTS) - WITHOUT_ROOMS


def test_events_about_a_handle_say_which() -> None:
    for kind, field in ROUTED_BY_HANDLE.items():
        assert missing(ffi.FfiEvent.DESCRIPTOR.fields_by_name[kind].message_type, field) == []


def test_media_enums_have_the_numbers_of_the_wire() -> None:
    from livekit_agent.rooms import (
        DegradationPreference,
        ResamplerQuality,
        VideoCodec,
        VideoEncoder,
        VideoFormat,
        VideoRotation,
    )

    recipes = {name.removeprefix("SOXR_QUALITY_"): value for name, value in audio.SoxQualityRecipe.items()}
    assert {q.name.replace("_", ""): q.value for q in ResamplerQuality} == recipes
    preferences = dict(room.DegradationPreference.items())
    assert {f"DEGRADATION_PREFERENCE_{p.name}": p.value for p in DegradationPreference} == preferences
    assert {f"ENCODER_BACKEND_{e.name}": e.value for e in VideoEncoder} == dict(room.VideoEncoderBackend.items())

    assert {codec.name: codec.value for codec in VideoCodec} == dict(video.VideoCodec.items())
    assert {format.name: format.value for format in VideoFormat} == dict(video.VideoBufferType.items())
    assert sorted(VideoRotation) == sorted(video.VideoRotation.values())


def test_enums_of_connections_and_encryption_have_the_numbers_of_the_wire() -> None:
    from livekit_agent.rooms import EncryptionState, EncryptionType, IceTransport, KeyDerivation, Scenario

    assert {f"SIMULATE_{s.name}": s.value for s in Scenario} == dict(room.SimulateScenarioKind.items())
    assert {f"TRANSPORT_{t.name.replace('_', '')}": t.value for t in IceTransport} == dict(
        room.IceTransportType.items()
    )
    assert {s.name: s.value for s in EncryptionState} == dict(e2ee.EncryptionState.items())
    assert {t.name: t.value for t in EncryptionType} == dict(e2ee.EncryptionType.items())
    assert {d.name: d.value for d in KeyDerivation} == dict(e2ee.KeyDerivationFunction.items())


def test_enums_have_the_numbers_of_the_wire() -> None:
    from livekit_agent.rooms import (
        AudioFeature,
        ConnectionState,
        DisconnectReason,
        FrameMetadataKind,
        ParticipantKindDetail,
        ParticipantState,
        TrackKind,
        TrackSource,
        VideoQuality,
    )

    assert {f"TF_{f.name}": f.value for f in AudioFeature} == dict(track.AudioTrackFeature.items())
    assert {f"FMF_{k.name}": k.value for k in FrameMetadataKind} == dict(track.FrameMetadataFeature.items())
    assert {f"VIDEO_QUALITY_{q.name}": q.value for q in VideoQuality} == dict(track_publication.VideoQuality.items())
    details = dict(participant.ParticipantKindDetail.items())
    assert {f"PARTICIPANT_KIND_DETAIL_{d.name}": d.value for d in ParticipantKindDetail} == details
    states = dict(participant.ParticipantState.items())
    assert {f"PARTICIPANT_STATE_{s.name}": s.value for s in ParticipantState} == states
    reasons = dict(participant.DisconnectReason.items())
    assert {("UNKNOWN_REASON" if r == 0 else r.name): r.value for r in DisconnectReason} == reasons
    assert {f"CONN_{s.name}": s.value for s in ConnectionState} == dict(room.ConnectionState.items())
    assert {f"KIND_{k.name}": k.value for k in TrackKind} == dict(track.TrackKind.items())
    assert {f"SOURCE_{s.name}": s.value for s in TrackSource} == dict(track.TrackSource.items())


def test_the_package_exports_what_it_says() -> None:
    assert sorted(livekit_agent.rooms.__all__) == sorted(livekit_agent.rooms._HOMES)
    assert dir(livekit_agent.rooms) == sorted(livekit_agent.rooms.__all__)
    for name in livekit_agent.rooms.__all__:
        assert getattr(livekit_agent.rooms, name) is not None
    with pytest.raises(AttributeError):
        livekit_agent.rooms.nonsense


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_rooms_in_memory_load_no_native_library_and_leave_the_livekit_package_usable(backend: str) -> None:
    program = f"""
import sys, anyio
import livekit_agent.rooms
assert "google.protobuf" not in sys.modules and "anyio" in sys.modules
async def main():
    async with livekit_agent.rooms.MemoryRooms() as rooms, rooms.join("r", "a") as room:
        await room.local_participant.publish_data(b"x")
anyio.run(main, backend={backend!r})
other = {{"trio": "asyncio", "asyncio": "trio"}}[{backend!r}]
assert not [name for name in ("numpy", "livekit.rtc", other) if name in sys.modules]
assert "livekit_agent.rooms._ffi" not in sys.modules
assert "liblivekit_ffi" not in open("/proc/self/maps").read()
import livekit.rtc
from livekit_agent.rooms._proto import ffi
assert livekit.rtc._ffi_client.proto_ffi is ffi
import livekit
assert livekit.rtc.Room
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_where_livekit_rtc_has_the_native_library_already_nobody_joins() -> None:
    program = """
from livekit.rtc._ffi_client import FfiClient
from livekit_agent import RoomError
from livekit_agent.rooms import AudioProcessor
FfiClient.instance
try:
    AudioProcessor(noise_suppression=True)
except RoomError as error:
    print(error.code, error.message)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith("ROOM_LIBRARY livekit.rtc is in use in this process")


def test_where_livekit_rtc_takes_the_native_library_away_it_is_told_once() -> None:
    program = """
import livekit.rtc
from livekit_agent.rooms import AudioProcessor
for take in (False, True, True):
    if take:
        livekit.rtc._ffi_client.FfiClient.instance
    AudioProcessor(noise_suppression=True).close()
    print("made")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == ["made"] * 3
    assert done.stderr.count("has taken the native library's one listener") == 1
