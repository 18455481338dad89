"""Every security promise and the tests that hold it, in one table that cannot lose one.

``MUSTS`` maps each promise to tests by node id, ``ADVISORIES`` each published weakness of other WebSocket clients that
was repeated against ours.  That the named tests exist is checked here; what has no better home is tested below.
"""

from __future__ import annotations

import ast
import contextlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import livekit_agent
from livekit_agent import Job, JobType, events
from livekit_agent.protocol import Role, _codec

TESTS = Path(__file__).parent
SRC = Path(livekit_agent.__file__).parent

MUSTS: dict[str, tuple[str, ...]] = {
    # --- the connection
    "TLS is verified, against the system's authorities or those named": (
        "runtime/test_transport.py::test_tls_with_a_private_authority_works_when_it_is_named",
        "runtime/test_transport.py::test_without_a_ca_file_the_systems_authorities_decide",
        "runtime/test_transport.py::test_ipv4_addresses_and_names_are_both_verified",
    ),
    "an expired certificate, one of another host, one of an unknown authority are refused": (
        "runtime/test_transport.py::test_a_certificate_that_proves_nothing_is_refused",
    ),
    "a self-signed certificate is refused": (
        "runtime/test_transport.py::test_a_self_signed_certificate_is_refused_with_the_way_out",
    ),
    "an alert, an end or silence in mid-handshake is one error, and tried again": (
        "runtime/test_transport.py::test_an_alert_in_the_handshake_is_named",
        "runtime/test_transport.py::test_a_server_that_leaves_during_the_handshake_is_named",
        "runtime/test_transport.py::test_a_server_that_never_answers_the_handshake_costs_the_connect_timeout",
    ),
    "nothing turns verification off": ("test_security.py::test_nothing_turns_tls_verification_off",),
    "no falling back from TLS to plain text": (
        "runtime/test_transport.py::test_a_tls_client_at_a_plain_server_is_told_what_it_met",
        "runtime/test_transport.py::test_a_plain_client_at_a_tls_server_gets_no_further_and_tries_again",
    ),
    "plain text only to loopback, unless asked for by a loud name": (
        "runtime/test_transport.py::test_plain_text_stays_on_this_machine",
        "runtime/test_transport.py::test_plain_text_leaves_this_machine_only_when_asked_to",
        "runtime/test_transport.py::test_a_worker_speaks_plain_text_elsewhere_only_with_allow_plaintext",
    ),
    "redirects are not followed": (
        "runtime/test_transport.py::test_a_redirect_is_not_followed_and_its_target_hears_nothing",
        "protocol/test_handshake.py::test_case_13_a_redirect_is_not_followed",
    ),
    "the API client follows none either": ("api/test_api_client.py::test_a_redirect_is_not_followed_with_the_token",),
    # --- tokens and secrets
    "the token is in a header only, never in a URL": (
        "protocol/test_handshake.py::test_case_3_the_token_is_in_the_header_and_nowhere_else",
        "test_config.py::test_urls_that_are_not_say_why_and_are_never_quoted",
    ),
    "a token lives for ten minutes and grants one thing": (
        "protocol/test_auth.py::test_case_3_and_5_a_worker_s_token_holds_the_agent_grant_and_nothing_else",
    ),
    "each connection has a token of its own": (
        "protocol/test_auth.py::test_case_4_a_token_made_later_expires_later",
        "runtime/test_reconnect.py::test_each_connection_has_a_fresh_token_with_one_grant",
    ),
    "no repr shows a secret": (
        "test_secrets.py::test_nothing_that_holds_a_secret_shows_it",
        "test_secrets.py::test_options_show_no_proxy_password",
        "test_config.py::test_the_repr_shows_no_secret_and_no_proxy_password",
        "test_config.py::test_a_query_reaches_the_gateway_that_wants_it_and_no_repr",
    ),
    "no log record and no exception shows a secret, at any level": (
        "test_secrets.py::test_a_server_that_quotes_the_token_back_is_not_repeated",
        "test_secrets.py::test_a_whole_job_that_fails_while_everything_is_logged",
        "test_secrets.py::test_a_join_that_fails_with_the_token_in_the_librarys_message",
        "test_secrets.py::test_a_connector_that_breaks_with_the_token_in_hand",
        "test_secrets.py::test_a_handlers_own_error_that_quotes_a_token_is_logged_without_it",
        "test_secrets.py::test_no_token_survives_whatever_surrounds_it",
        "test_secrets.py::test_no_error_of_ours_can_be_made_to_hold_a_token",
    ),
    "nor in any of the thousand histories that CI lives through, by simulate --complete": (
        "cli/test_simulate.py::test_complete_fails_for_a_secret_in_the_log",
        "simulation/test_seeds.py::test_seeds_keep_every_promise_and_are_worth_their_name",
        "simulation/test_seeds.py::test_what_is_overheard_would_be_found",
    ),
    "a job's token is handed on as it is": (
        "protocol/test_conformance.py::test_case_42_assignments_without_job_or_with_a_strange_token",
        "runtime/test_offers.py::test_the_answer_carries_the_agents_metadata_and_the_join_uses_it",
    ),
    # --- limits
    "a handshake has at most 64 KiB": (
        "protocol/test_handshake.py::test_an_answer_that_is_no_101_and_no_refusal_is_one_handshake_error",
    ),
    "a message has at most 16 MiB, judged by its declared length": (
        "protocol/test_frame_guard.py::test_a_message_of_exactly_16_mib_passes_and_one_byte_more_is_refused_at_its_header",
        "protocol/test_frame_guard.py::test_the_bound_is_the_same_for_one_frame_and_for_the_sum_of_fragments",
    ),
    "fragments are counted": ("protocol/test_frame_guard.py::test_case_85_endless_empty_fragments_are_refused",),
    "jobs and offers are bounded": (
        "protocol/test_jobs.py::test_offers_are_bounded_even_when_nobody_answers",
        "runtime/test_offers.py::test_a_burst_of_a_hundred_offers_fills_three_places",
    ),
    "the outbox is bounded": (
        "protocol/test_closing.py::test_a_peer_that_sends_and_does_not_read_is_given_up_before_our_answers_fill_the_memory",
        "dispatch/test_dispatch_server.py::test_an_outbox_is_bounded",
    ),
    "metadata of a job is parsed within bounds": ("test_security.py::test_hostile_job_metadata_is_one_value_error",),
    "a peer's text in a log is one bounded line": (
        "runtime/test_peer_texts.py::test_no_text_of_a_server_reaches_the_log_with_a_control_character",
    ),
    "protobuf-JSON is parsed to a bounded depth only": ("test_security.py::test_json_is_never_parsed_without_a_depth",),
    # --- the process
    "the embedded server listens on loopback": ("dispatch/test_dispatch_server.py::test_it_listens_on_loopback_only",),
    "its HTTP side is small and has deadlines": (
        "dispatch/test_dispatch_server.py::test_a_client_that_stalls_is_let_go",
        "dispatch/test_dispatch_server.py::test_a_head_dripped_byte_by_byte_gets_no_more_time",
        "dispatch/test_dispatch_server.py::test_a_stranger_may_not_send_much",
    ),
    "nothing is pickled, nothing forks": ("test_security.py::test_nothing_is_pickled_and_nothing_forks",),
}

ADVISORIES: dict[str, tuple[str, ...]] = {
    "CVE-2026-1526, a decompression bomb (undici)": (
        "protocol/test_handshake.py::test_a_compressed_frame_that_was_never_negotiated_is_broken",
        "protocol/test_handshake.py::test_case_8_what_was_not_offered_fails_the_connection",
    ),
    "CVE-2026-1528, a 64-bit length (undici)": (
        "protocol/test_frame_guard.py::test_case_85_a_huge_announcement_is_refused_before_its_body",
    ),
    "CVE-2026-2229, a bad server_max_window_bits (undici)": (
        "protocol/test_handshake.py::test_case_8_what_was_not_offered_fails_the_connection",
    ),
    "CVE-2026-59881, compressed frames that were not negotiated (aiohttp)": (
        "protocol/test_handshake.py::test_a_compressed_frame_that_was_never_negotiated_is_broken",
    ),
    "websockets #1715, a message one byte over the limit is truncated": (
        "protocol/test_frame_guard.py::test_a_message_of_exactly_16_mib_passes_and_one_byte_more_is_refused_at_its_header",
        "protocol/test_frame_guard.py::test_the_fragment_that_breaks_the_bound_does_not_complete_a_message",
    ),
    "protobuf nested deeper than a parser's stack": ("test_security.py::test_deep_protobuf_is_undecodable",),
    "JSON nested too deeply, a number of six thousand digits": (
        "test_security.py::test_hostile_job_metadata_is_one_value_error",
        "protocol/test_auth.py::test_a_bad_token_is_one_typed_error_that_does_not_quote_it",
    ),
}


@cache
def named_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("promise", [*MUSTS, *ADVISORIES])
def test_each_promise_has_its_tests(promise: str) -> None:
    named = {**MUSTS, **ADVISORIES}[promise]
    assert named
    for node in named:
        file, _, test = node.partition("::")
        assert test in named_in(file), f"{node} is gone"


# ------------------------------------------------------------------------------------------------ in the source


def sources() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(SRC)), ast.parse(path.read_text())) for path in sorted(SRC.rglob("*.py"))]


def names_in(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} | {(node.module or "").partition(".")[0]}
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


def test_nothing_turns_tls_verification_off() -> None:
    unsafe = {"CERT_NONE", "CERT_OPTIONAL", "check_hostname", "verify_mode", "_create_unverified_context", "verify"}
    # The contracts' scripted server makes a context of its own; what it says there concerns no client of ours.
    used = {name: names_in(tree) & unsafe for name, tree in sources() if not name.startswith("testing/contracts/")}
    assert {name: found for name, found in used.items() if found} == {"api/_client.py": {"verify"}}
    text = (SRC / "api" / "_client.py").read_text()
    assert "verify=False" not in text


def test_nothing_is_pickled_and_nothing_forks() -> None:
    unsafe = {
        "pickle",
        "cPickle",
        "dill",
        "shelve",
        "multiprocessing",
        "fork",
        "forkpty",
        "ProcessPoolExecutor",
        "eval",
    }
    used = {name: names_in(tree) & unsafe for name, tree in sources()}
    assert {name: found for name, found in used.items() if found} == {}


def test_json_is_never_parsed_without_a_depth() -> None:
    calls = 0
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("json_format.Parse", "json_format.ParseDict")
            ):
                calls += 1
                assert "max_recursion_depth" in [keyword.arg for keyword in node.keywords], f"{name}:{node.lineno}"
    assert calls >= 2


# ------------------------------------------------------------------------------------------------ hostile values


def nested(depth: int) -> bytes:
    """Field 1 of a message in field 1 of a message …; the innermost is empty."""
    payload = b""
    for _ in range(depth):
        length, head = len(payload), b""
        while length > 0x7F:
            head += bytes([length & 0x7F | 0x80])
            length >>= 7
        payload = b"\x0a" + head + bytes([length]) + payload
    return payload


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("depth", [101, 1_000, 20_000])
def test_deep_protobuf_is_undecodable(role: Role, depth: int) -> None:
    # In a group, which a parser must descend into without knowing the field.
    groups = b"\x9b\x06" * depth + b"\x9c\x06" * depth
    with pytest.raises(_codec.Undecodable):
        _codec.decode(role, groups, wall=0.0)
    # Known and unknown messages are bytes until somebody asks for them: decoded, or undecodable, and nothing else.
    with contextlib.suppress(_codec.Undecodable):
        _codec.decode(role, nested(depth), wall=0.0)


@pytest.mark.parametrize(
    "metadata",
    ["[" * 100_000, '{"a":' * 50_000, "9" * 6_000, '{"n": ' + "9" * 6_000 + "}", "x", "", "\x00", "[" * 5_000_000],
    ids=lambda text: f"{text[:6]!r} of {len(text)}",
)
def test_hostile_job_metadata_is_one_value_error(metadata: str) -> None:
    job = Job(id="AJ_1", type=JobType.ROOM, metadata=metadata)
    for read in (job.metadata_json, lambda: job.metadata_as(dict)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - any of its kind, and nothing above it
            read()
        assert len(str(caught.value)) < 500


def test_no_event_of_the_worker_shows_what_a_job_carries() -> None:
    secret = "s3cr3t-metadata"
    job = Job(id="AJ_1", type=JobType.ROOM, metadata=secret)
    values: list[Any] = [job, events.JobStarted(job=job)]
    assert all(secret not in f"{value!r} {value}" for value in values)
