"""Every limit has a test of what happens when it is reached: one table that cannot lose one.

``WHEN_FULL`` maps each row of ``_bounds.BOUNDS`` to tests by node id; that they exist is checked here, and what has no
better home is tested below.  The queues that drop or overflow are held against a model by a state machine.
"""

from __future__ import annotations

import ast
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from livekit_agent import (
    BaseHandler,
    Job,
    JobMetadata,
    JobStatus,
    ResourceExhaustedError,
    RoomClosedError,
    RpcError,
    StreamError,
    events,
    handlers,
)
from livekit_agent import _bounds as bounds
from livekit_agent.dispatch import DispatchServer, _room_line
from livekit_agent.dispatch._events import JobRecord, StatusUpdate
from livekit_agent.protocol import JobBook, mint_token
from livekit_agent.protocol import _jobs as job_book
from livekit_agent.rooms import (
    AudioFrame,
    AudioMixer,
    AudioSource,
    DisconnectReason,
    MemoryRooms,
    Room,
    RpcCode,
    VideoFrame,
    VideoSource,
    _preconnect,
    _remote_wire,
    _stream_inbox,
    _subscription,
)
from livekit_agent.rooms._subscription import Subscription
from livekit_agent.runtime import _broadcast
from livekit_agent.runtime._broadcast import Broadcast
from livekit_agent.runtime._rooms import ServerRooms

TESTS = Path(__file__).parent

PROTOCOL, RUNTIME, ROOMS, DISPATCH = "protocol/test_", "runtime/test_", "rooms/test_", "dispatch/test_dispatch_"
HERE, SMALL_ONES = "test_bounds.py::test_", "test_small_bounds.py::test_"

WHEN_FULL: dict[str, str] = {
    "handshake": PROTOCOL + "handshake.py::test_an_answer_that_is_no_101_and_no_refusal_is_one_handshake_error",
    "message": PROTOCOL
    + "frame_guard.py::test_a_message_of_exactly_16_mib_passes_and_one_byte_more_is_refused_at_its_header",
    "json": PROTOCOL + "codec.py::test_text_is_read_up_to_its_bound_and_no_further",
    "fragments": PROTOCOL + "frame_guard.py::test_case_85_endless_empty_fragments_are_refused",
    "bad_frames": PROTOCOL
    + "conversation_table.py::test_case_77_three_undecodable_messages_are_skipped_and_the_fourth_ends_the_connection",
    "outbox": PROTOCOL
    + "closing.py::test_a_peer_that_sends_and_does_not_read_is_given_up_before_our_answers_fill_the_memory",
    "error_text": HERE + "an_error_s_text_is_cut_for_the_wire",
    "connect": RUNTIME + "transport.py::test_an_address_that_swallows_everything_costs_ten_seconds",
    "handshake_time": PROTOCOL
    + "handshake.py::test_case_15_a_server_that_accepts_and_says_nothing_is_given_ten_seconds",
    "register": PROTOCOL + "conformance.py::test_case_24_and_92_a_registration_may_take_nine_seconds_but_not_ten",
    "answer": PROTOCOL
    + "conformance.py::test_case_31_an_offer_without_an_answer_is_declined_at_two_and_a_half_seconds",
    "assignment": PROTOCOL
    + "conformance.py::test_case_34_and_36_a_place_is_given_back_when_no_assignment_comes_and_a_late_one_is_refused",
    "status_settle": PROTOCOL
    + "statuses.py::test_a_final_status_of_a_settled_job_leaves_at_once_with_a_ping_in_the_same_write",
    "ping_silence": PROTOCOL + "conformance.py::test_case_74_silence_is_pinged_after_15_seconds_and_given_up_after_30",
    "dead_silence": PROTOCOL + "conformance.py::test_case_74_silence_is_pinged_after_15_seconds_and_given_up_after_30",
    "write": RUNTIME + "reconnect.py::test_a_peer_that_reads_nothing_is_given_up_and_every_accessor_still_answers",
    "retry_after": PROTOCOL + "lifecycle.py::test_case_12_retry_after_is_honoured_within_reason",
    "close": PROTOCOL + "conformance.py::test_case_65_a_close_waits_two_seconds_for_its_echo_and_no_longer",
    "flush": RUNTIME + "stop.py::test_no_user_code_and_no_peer_can_delay_a_stop_beyond_its_bound",
    "terminated_leave": RUNTIME + "stop.py::test_a_terminated_job_has_left_within_2_8_s_whatever_the_budgets_say",
    "room_join": RUNTIME + "job_endings.py::test_a_join_that_hangs_fails_the_job_in_time",
    "room_leave": ROOMS + "tolerance.py::test_a_room_that_never_ends_is_given_up_in_time",
    "jobs": HERE + "a_worker_without_a_limit_has_one",
    "offers": PROTOCOL + "jobs.py::test_offers_are_bounded_even_when_nobody_answers",
    "ended_jobs": PROTOCOL + "jobs.py::test_the_oldest_ended_jobs_are_forgotten_and_live_ones_never",
    "worker_events": RUNTIME + "worker.py::test_a_slow_listener_loses_the_oldest_and_can_see_how_many",
    "room_events": RUNTIME + "callbacks.py::test_droppable_events_lose_the_oldest",
    "room_lifecycle_events": HERE + "too_many_lifecycle_events_are_an_error_and_not_a_gap",
    "early_stream_events": HERE + "the_early_events_of_a_stream_are_bounded_where_they_are_kept",
    "room_request": ROOMS + "transport.py::test_a_call_has_a_deadline",
    "data_buffer": ROOMS + "backpressure.py::test_who_sends_too_much_waits_and_all_of_it_arrives_in_order",
    "data_packet": ROOMS + "conformance.py::test_data_that_does_not_fit_is_refused_with_a_name",
    "streams_waiting": HERE + "a_listener_that_takes_no_stream_loses_the_oldest",
    "stream_buffer": ROOMS + "streams.py::test_a_reader_has_a_bound_and_read_all_a_limit",
    "stream_read_all": ROOMS + "streams.py::test_a_reader_has_a_bound_and_read_all_a_limit",
    "stream_piece": ROOMS + "streams.py::test_a_file_is_sent",
    "rpc_invocations": ROOMS + "rpc.py::test_too_many_calls_at_once_are_refused",
    "rpc_timeout": ROOMS + "rpc.py::test_a_call_has_a_timeout_that_can_be_sent",
    "rpc_response": HERE + "a_call_that_nobody_answers_ends_after_fifteen_seconds",
    "audio_stream": ROOMS + "audio.py::test_a_slow_consumer_loses_the_oldest_frames_of_its_own_only",
    "audio_frame": ROOMS + "audio.py::test_frames_that_another_process_asks_for_are_bounded_too",
    "video_stream": HERE + "pictures_that_nobody_takes_are_dropped_but_for_the_latest",
    "audio_mixer": HERE + "a_mixer_that_nobody_reads_reads_a_second_ahead_and_no_further",
    "preconnect": HERE + "a_recording_that_is_too_long_is_refused_and_the_next_one_is_not",
    "data_track": ROOMS + "data_tracks.py::test_a_full_queue_does_what_its_policy_says",
    "memory_sound": ROOMS + "wire.py::test_who_floods_a_source_without_a_queue_is_heard_for_four_seconds_at_most",
    "remote_outbox": HERE + "a_peer_of_a_remote_room_that_reads_nothing_is_a_fault",
    "remote_media": HERE + "late_frames_of_a_remote_room_go_and_everything_else_stays",
    "remote_calls": HERE + "a_line_with_too_many_unanswered_requests_is_closed",
    "remote_handles": HERE + "a_line_that_holds_too_many_handles_is_closed",
    "native_mailbox": ROOMS + "native.py::test_a_blocked_loop_loses_data_and_no_arrival",
    "device": ROOMS + "devices.py::test_a_sound_system_that_hangs_is_given_up",
    "device_close": ROOMS + "devices.py::test_a_driver_that_does_not_close_holds_nobody_up",
    "speaker": ROOMS + "devices.py::test_writing_waits_for_room_which_is_the_pacing",
    "native_quiet": ROOMS + "exits.py::test_every_exit_is_quiet_and_has_its_code",
    "native_exit": ROOMS + "exits.py::test_every_exit_is_quiet_and_has_its_code",
    "health": "cli/test_health.py::test_more_connections_than_the_bound_are_closed_at_once",
    "http_body": DISPATCH + "http.py::test_a_chunked_body_is_bounded_as_it_grows",
    "http_head": DISPATCH + "http.py::test_faults_are_answered_and_end_the_connection",
    "connections": DISPATCH + "server.py::test_beyond_its_bound_connections_are_closed_at_once",
    "server_jobs": DISPATCH + "full.py::test_only_jobs_that_are_over_are_forgotten",
    "server_outbox": DISPATCH + "server.py::test_an_outbox_is_bounded",
    "server_events": DISPATCH + "server.py::test_a_feed_that_nobody_reads_drops_the_oldest",
    "dispatches": DISPATCH + "full.py::test_a_room_has_so_many_dispatches_and_no_more",
    "job_history": HERE + "of_a_job_s_statuses_the_latest_are_kept",
    "offer_budget": DISPATCH + "selection.py::test_an_answer_counts_until_the_budget_is_spent",
    "simulated_offer": DISPATCH + "full.py::test_a_simulated_job_waits_ten_seconds_for_its_answer",
    "terminated_removal": DISPATCH + "endings.py::test_an_agent_that_stays_is_removed_after_three_seconds",
    "http_head_time": DISPATCH + "server.py::test_a_head_dripped_byte_by_byte_gets_no_more_time",
    "http_body_time": DISPATCH + "server.py::test_a_client_that_stalls_is_let_go",
    "http_idle": DISPATCH + "server.py::test_a_client_that_stalls_is_let_go",
    "memory_pipe": "dispatch/test_memory_pipe.py::test_a_full_pipe_makes_the_sender_wait",
    "metadata": ROOMS + "ledger.py::test_what_is_too_large_is_refused",
    "attributes": ROOMS + "ledger.py::test_what_is_too_large_is_refused",
    "room_name": DISPATCH + "http_answers.py::test_every_answer_is_the_recorded_one",
    "participant_name": DISPATCH + "http_answers.py::test_every_answer_is_the_recorded_one",
    "api": "api/test_api_client.py::test_a_server_that_never_answers_times_out",
    "api_error": "api/test_api_client.py::test_the_words_beside_an_error_are_cut_and_counted",
    "api_response": "api/test_api_client.py::test_an_answer_beyond_its_bound_is_refused",
    "sync_request_threads": HERE + "sync_requests_share_a_bounded_number_of_threads",
    "secret_file": "test_config.py::test_an_unusable_secret_file_is_named_but_never_quoted",
    "json_depth": SMALL_ONES + "text_is_read_as_deep_as_its_bound_and_no_deeper",
    "read": SMALL_ONES + "a_read_takes_no_more_than_its_bound",
    "frames_at_once": SMALL_ONES + "a_flood_of_empty_frames_is_taken_by_the_hundred",
    "refusal": SMALL_ONES + "of_a_refusal_as_much_is_read_as_its_error_needs",
    "close_reason": SMALL_ONES + "the_reason_of_our_close_fits_a_control_frame",
    "deployment": PROTOCOL
    + "conformance.py::test_case_21_a_deployment_that_the_server_would_drop_us_for_is_refused_before_connecting",
    "load": SMALL_ONES + "the_load_is_reckoned_anew_at_its_interval",
    "loop_late": RUNTIME + "load.py::test_what_blocks_the_event_loop_is_told_at_the_next_sample",
    "backoff_first": PROTOCOL
    + "lifecycle.py::test_the_first_retry_after_a_registration_that_lasted_comes_within_half_a_second",
    "backoff": PROTOCOL + "lifecycle.py::test_a_delay_is_within_its_bound_and_the_bound_doubles_up_to_the_cap",
    "lasting_registration": PROTOCOL
    + "lifecycle.py::test_case_18_a_register_response_alone_does_not_reset_the_backoff",
    "delivery": SMALL_ONES + "the_proof_of_a_status_is_waited_for_half_the_flush_and_then_the_room_is_left",
    "dead_entries": PROTOCOL + "lifecycle.py::test_answered_offers_leave_no_heap_of_dead_timers_behind",
    "job_json": SMALL_ONES + "a_job_s_metadata_is_parsed_up_to_its_bound",
    "data_track_most": SMALL_ONES + "a_data_track_s_queue_is_as_long_as_its_bound_at_most",
    "data_track_push": SMALL_ONES + "a_burst_of_pushes_is_taken_up_to_the_queue_s_bound",
    "data_track_name": ROOMS + "data_tracks.py::test_names_that_do_not_do_are_refused",
    "sent_picture_side": SMALL_ONES + "a_picture_that_is_sent_can_be_halved_twice",
    "picture_side": SMALL_ONES + "a_picture_has_sides_that_a_picture_can_have",
    "remote_queue": SMALL_ONES + "a_source_of_a_room_on_a_server_queues_no_more_than_a_minute",
    "remote_names": ROOMS + "encryption.py::test_a_server_takes_digests_only_and_not_any_number",
    "room_empty": ROOMS + "memory.py::test_a_room_that_nobody_joins_closes_after_its_empty_timeout",
    "room_departure": SMALL_ONES + "a_room_that_everybody_has_left_closes_after_its_departure_timeout",
    "keepalive": PROTOCOL
    + "conformance.py::test_case_106_a_silent_worker_stays_registered_and_sees_six_pings_a_minute",
    "accept_pause": SMALL_ONES + "without_descriptors_accepting_is_tried_again_after_each_pause",
    "duration": "test_config.py::test_what_is_not_a_duration",
    "token_ttl": "cli/test_usage.py::test_errors_of_use",
    "shown_text": SMALL_ONES + "a_message_too_long_to_be_shown_is_told_and_the_next_one_is_shown",
    "demo": SMALL_ONES + "a_demo_that_hangs_fails_in_time",
    "printed": SMALL_ONES + "a_peer_s_text_is_one_line_of_a_few_words",
    "virtual_time": "testing/test_plugin.py::test_a_deadlock_is_told_in_three_lines",
    "deadlock_lines": SMALL_ONES + "a_deadlock_s_report_shows_two_hundred_tasks_and_counts_all",
    "violation_notes": SMALL_ONES + "a_violation_shows_the_latest_notes",
    "leaks": SMALL_ONES + "of_records_that_show_a_secret_the_first_are_kept",
}


@cache
def named_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("bound", WHEN_FULL)
def test_each_bound_has_its_test(bound: str) -> None:
    file, _, test = WHEN_FULL[bound].partition("::")
    assert test in named_in(file), f"{WHEN_FULL[bound]} is gone"


# ------------------------------------------------------------------------------------------------ one by one


def test_an_error_s_text_is_cut_for_the_wire() -> None:
    from protocol.pair import Pair

    two = Pair().register()
    two.run()
    two.worker.report("AJ_1", JobStatus.FAILED, "x" * 5_000, two.now)
    two.advance(1)
    (said,) = [m.update_job for m in two.said_by_worker() if m.update_job.status == JobStatus.FAILED]
    assert len(said.error) == bounds.ERROR_TEXT_CHARS_MAX
    assert said.error.endswith("x…")


def test_a_worker_without_a_limit_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert JobBook(None).max_jobs == bounds.JOBS_MAX
    from protocol.pair import Pair

    monkeypatch.setattr(job_book, "JOBS_MAX", 2)
    two = Pair(max_jobs=None).register()
    for number in range(2):
        two.offer(f"AJ_{number}")
        assert two.accept(f"AJ_{number}")
    two.said_by_worker()
    two.offer("AJ_2")
    (answer,) = [m.availability for m in two.said_by_worker() if m.WhichOneof("message") == "availability"]
    assert not answer.available, "declined, and nobody was asked"


@pytest.mark.virtual
async def test_a_listener_that_takes_no_stream_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream_inbox, "STREAMS_WAITING_MAX", 3)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        with b.text_streams("t") as texts:
            for number in range(5):
                await a.local_participant.send_text(str(number), topic="t")
            await anyio.sleep(1)
            assert texts.dropped == 2
            got = [await (await anext(texts)).read_all() for _ in range(3)]
            assert got == ["2", "3", "4"]


@pytest.mark.virtual
async def test_a_call_that_nobody_answers_ends_after_fifteen_seconds() -> None:
    async def never(call: object) -> str:
        # Its side would answer for it after eight seconds, if it could.
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)
        return ""

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        async with b.serve_rpc({"never": never}):
            began = anyio.current_time()
            with pytest.raises(RpcError) as caught:
                await a.local_participant.perform_rpc("b", "never", "")
            assert caught.value.rpc_code == RpcCode.RESPONSE_TIMEOUT
            assert anyio.current_time() - began == pytest.approx(bounds.RPC_RESPONSE_TIMEOUT, abs=1e-3)


@pytest.mark.virtual
async def test_pictures_that_nobody_takes_are_dropped_but_for_the_latest() -> None:
    import numpy as np

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        published = b.subscribe(events.TrackSubscribed)
        source = VideoSource(16, 16)
        await a.local_participant.publish_video(source)
        track = (await anext(_of(published))).track
        with track.video_frames() as stream:
            for number in range(bounds.VIDEO_STREAM_FRAMES + 6):
                source.capture_frame(VideoFrame.of(np.full((16, 16, 4), number, np.uint8)))
                await anyio.sleep(0.03)
            assert stream.statistics().dropped == 6
            assert [int((await anext(stream)).pixels[0, 0, 0]) for _ in range(4)] == [6, 7, 8, 9]


def _of(subscription: Subscription) -> AsyncIterator[Any]:
    return aiter(subscription)


def test_of_a_job_s_statuses_the_latest_are_kept() -> None:
    job = JobRecord(id="AJ_1", type=0, room="r")  # type: ignore[arg-type]
    for number in range(bounds.JOB_HISTORY_MAX + 5):
        job.history.append(StatusUpdate(status=1, error=str(number), wall=0.0))
    assert len(job.history) == bounds.JOB_HISTORY_MAX
    assert (job.history[0].error, job.history[-1].error) == ("5", "104")


async def test_sync_requests_share_a_bounded_number_of_threads() -> None:
    assert handlers._request_threads().total_tokens == bounds.SYNC_REQUEST_THREADS_MAX
    handlers._request_threads().total_tokens = 3
    at_work: list[Job] = []
    let_go = threading.Event()

    class Slow(BaseHandler):
        def on_job_request(self, job: Job) -> bool:  # type: ignore[override]
            at_work.append(job)
            return let_go.wait(30)

    job: Any = object()
    for _ in range(2):  # those who give up leave their threads where they hang
        with anyio.move_on_after(0.1):
            async with anyio.create_task_group() as askers:
                for _ in range(5):
                    askers.start_soon(handlers.ask, Slow(), job)
    assert len(at_work) == 3
    let_go.set()
    with anyio.fail_after(10):
        assert await handlers.ask(Slow(), job) == JobMetadata(), "and then they are there for others"
    with anyio.fail_after(10):
        while handlers._request_threads().borrowed_tokens:  # noqa: ASYNC110 - the threads' last act
            await anyio.sleep(0.01)
    assert len(at_work) == 4


def test_the_early_events_of_a_stream_are_bounded_where_they_are_kept() -> None:
    from livekit_agent.rooms._native_media import StreamDesk
    from livekit_agent.rooms._proto import ffi

    class Library:
        dropped = 0

        def drop(self, handle_id: int) -> bool:
            self.dropped += 1
            return True

    library: Any = Library()
    desk = StreamDesk(library)
    desk._opening = 1
    for number in range(bounds.EARLY_STREAM_EVENTS_MAX + 3):
        event = ffi.FfiEvent()
        event.audio_stream_event.stream_handle = 7
        event.audio_stream_event.frame_received.frame.handle.id = number + 1
        desk.route(event)
    assert len(desk._early) == bounds.EARLY_STREAM_EVENTS_MAX
    assert library.dropped == 3


def test_a_peer_of_a_remote_room_that_reads_nothing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote_wire, "REMOTE_OUTBOX_BYTES_MAX", 10)
    outbox = _remote_wire.Outbox()
    outbox.put(b"12345")
    outbox.put(b"67890")
    assert outbox.fault is None
    outbox.put(b"x")
    assert outbox.fault is not None
    assert outbox.fault.code == 4008
    assert (len(outbox), outbox.take()) == (0, None), "what waited is not kept"


def test_late_frames_of_a_remote_room_go_and_everything_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote_wire, "REMOTE_MEDIA_BYTES_MAX", 4)
    outbox = _remote_wire.Outbox()
    for message, media in ((b"aa", True), (b"words", False), (b"bb", True), (b"cc", True), (b"large", True)):
        outbox.put(message, media=media)
    assert outbox.dropped == 3
    assert [outbox.take(), outbox.take(), outbox.take()] == [b"words", b"large", None]
    assert outbox.fault is None


@contextmanager
def far_room(monkeypatch: pytest.MonkeyPatch, **limits: int) -> Generator[Any]:
    """``async with`` it: a room on a server with these bounds, and the server's end of its connection."""
    for name, limit in limits.items():
        monkeypatch.setattr(_room_line, name, limit)
    lines: list[_room_line.RoomLine] = []
    make = _room_line.RoomLine.__init__

    def note(line: _room_line.RoomLine, *args: Any) -> None:
        lines.append(line)
        make(line, *args)

    monkeypatch.setattr(_room_line.RoomLine, "__init__", note)
    secret = "secretsecretsecretsecretsecret32"

    @asynccontextmanager
    async def enter() -> AsyncGenerator[tuple[Room, _room_line.RoomLine]]:
        async with (
            MemoryRooms({"key": secret}) as memory,
            DispatchServer(port=None, rooms=memory) as server,
            ServerRooms("ws://127.0.0.1", connector=server.memory_connector()) as far,
        ):
            token = mint_token("key", secret, wall=time.time(), identity="a", video={"roomJoin": True, "room": "r"})
            async with await far.join(token) as room:
                yield room, lines[0]
                with anyio.fail_after(1):
                    assert (await room.wait_closed()).reason == DisconnectReason.UNKNOWN
                await anyio.sleep(0.1)
                assert memory.participants("r") == []
            assert lines[0].live_handles == 0

    yield enter()


@pytest.mark.virtual
async def test_a_line_with_too_many_unanswered_requests_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with far_room(monkeypatch, REMOTE_CALLS_MAX=3) as place:
        async with place as (room, line), anyio.create_task_group() as group:

            async def capture() -> None:
                # Longer than its source's queue: answered when it has played.
                source = AudioSource(queue_size_ms=10)
                await room.local_participant.publish_audio(source)
                with pytest.raises(RoomClosedError):
                    await source.capture_frame(duration=1)

            for _ in range(3):
                group.start_soon(capture)
            await anyio.sleep(0.1)
            assert line.outbox.fault is None, "three are allowed"
            with pytest.raises(RoomClosedError):
                await room.local_participant.publish_data(b"one too many")
            assert line.outbox.fault == (4008, "remote_calls: too much is unanswered")


@pytest.mark.virtual
async def test_a_line_that_holds_too_many_handles_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with far_room(monkeypatch, REMOTE_HANDLES_MAX=10) as place:
        async with place as (room, line):
            while line.live_handles < 11:
                # What is found to be too much is what is there already.
                AudioSource().attach(room._link)
                await anyio.sleep(0.1)
                assert line.outbox.fault is None
            with pytest.raises(RoomClosedError):
                await room.local_participant.publish_data(b"x")
            assert line.outbox.fault == (4008, "remote_handles: too many are held")


@pytest.mark.virtual
async def test_a_mixer_that_nobody_reads_reads_a_second_ahead_and_no_further() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        with (await b.wait_for_track("a")).audio_frames(capacity=5) as stream:
            async with AudioMixer() as mixer:
                mixer.add(stream)
                await anyio.sleep(3)
                told = stream.statistics()
                # One frame more is on its way from the stream to the mixer.
                taken = told.received - told.dropped - told.waiting
                assert taken == round(bounds.AUDIO_MIXER_BUFFER / 0.01) + 1
                assert told.dropped == told.received - taken - 5 > 100
                for _ in range(50):
                    await anext(mixer)
                await anyio.sleep(0.1)
                told = stream.statistics()
                assert told.received - told.dropped - told.waiting > taken, "read, it goes on"


@pytest.mark.virtual
async def test_a_recording_that_is_too_long_is_refused_and_the_next_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_preconnect, "PRECONNECT_BYTES_MAX", 960)
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        with b.preconnect_audio() as recordings:
            publication = await a.local_participant.publish_audio()
            for samples in (481, 480):
                frame = AudioFrame(data=bytes(2 * samples), sample_rate=48_000)
                await a.local_participant.send_preconnect_audio(publication, [frame])
            with pytest.raises(StreamError) as caught:
                await anext(recordings)
            assert caught.value.code == "STREAM_TOO_LARGE"
            assert len((await anext(recordings)).frame.data) == 960


async def test_too_many_lifecycle_events_are_an_error_and_not_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subscription, "ROOM_LIFECYCLE_EVENTS_MAX", 2)
    room = Subscription((), lambda subscription: None)
    joined: Any = events.ParticipantJoined
    for _ in range(3):
        room.put(joined(participant=None))
    for _ in range(2):
        await anext(room)
    with pytest.raises(ResourceExhaustedError) as caught:
        await anext(room)
    assert caught.value.resource == "room_events"


# ------------------------------------------------------------------------------------------------ queues, any use

SMALL = 3


class Queues(RuleBasedStateMachine):
    """A room's subscription and a worker's listener, both with small bounds, against lists."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_subscription, "ROOM_EVENTS_MAX", SMALL)
        self.patch.setattr(_subscription, "ROOM_LIFECYCLE_EVENTS_MAX", SMALL)
        self.patch.setattr(_broadcast, "WORKER_EVENTS_MAX", SMALL)
        self.closings = 0
        self.overflows = 0
        self.room = Subscription((), lambda subscription: self._closed())
        self.room.on_overflow = self._overflowed
        self.waiting: list[Any] = []
        self.lost = 0
        self.over = False
        self.source = Broadcast()
        self.listener = self.source.listen((str,))
        self.kept: deque[str] = deque(maxlen=SMALL)
        self.offered = 0

    def teardown(self) -> None:
        self.patch.undo()

    def _closed(self) -> None:
        self.closings += 1

    def _overflowed(self) -> None:
        self.overflows += 1

    @rule(droppable=st.booleans())
    def put(self, droppable: bool) -> None:
        made: Any = events.ActiveSpeakersChanged if droppable else events.ParticipantJoined
        event = made(speakers=()) if droppable else made(participant=None)
        assert event.droppable is droppable
        self.room.put(event)
        if self.over:
            return
        same = [other for other in self.waiting if other.droppable is droppable]
        if len(same) < SMALL:
            self.waiting.append(event)
        elif droppable:
            self.waiting.remove(next(other for other in self.waiting if other is same[0]))
            self.waiting.append(event)
            self.lost += 1
        else:
            self.over = True
            assert self.overflows == 1

    @rule()
    def take(self) -> None:
        event = self.room.next_nowait()
        assert event is (self.waiting.pop(0) if self.waiting else None)

    @rule()
    def end(self) -> None:
        if not self.over:
            self.over = True
            self.room.end()

    @rule()
    def close(self) -> None:
        self.room.close()
        self.waiting.clear()
        self.over = True

    @rule(word=st.text(max_size=2), wanted=st.booleans())
    def publish(self, word: str, wanted: bool) -> None:
        self.source.publish(word if wanted else 7)
        if wanted:
            self.offered += 1
            self.kept.append(word)

    @invariant()
    def what_waits_is_what_the_model_holds(self) -> None:
        assert len(self.room) == len(self.waiting) <= 2 * SMALL
        assert self.room.dropped == self.lost
        assert self.closings == (1 if self.over else 0), "told of the end once"
        assert list(self.listener._queue) == list(self.kept)
        assert self.listener.dropped == self.offered - len(self.kept)


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=100, stateful_step_count=30)
