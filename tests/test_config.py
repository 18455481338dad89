"""Configuration: read from an environment that is a plain dict, judged as a whole, secrets kept out of every text."""

from __future__ import annotations

import contextlib
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import livekit_agent
from livekit_agent import (
    Config,
    ConfigError,
    JobType,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
    get_env,
    get_env_bool,
    get_env_duration,
    get_env_int,
    load_config_from_env,
    parse_duration,
    validate_config,
)
from livekit_agent.config import SETTINGS

KEY = "APIb2cKpQ7xYz9T"
SECRET = "kJ8sQp2LmZ0vXyR4tUwE6bNcA1dFgH3iO5rS7eTqWxYz"
GOOD = {"LIVEKIT_URL": "wss://example.livekit.cloud", "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}


def faults_of(config: Config) -> dict[str, ConfigError]:
    with pytest.raises(ExceptionGroup) as caught:
        validate_config(config)
    faults = {fault.field: fault for fault in caught.value.exceptions if isinstance(fault, ConfigError)}
    assert len(faults) == len(caught.value.exceptions)
    return faults


def refused(environ: dict[str, str]) -> dict[str, ConfigError]:
    with pytest.raises(ExceptionGroup) as caught:
        Config.from_env(environ)
    return {fault.source: fault for fault in caught.value.exceptions if isinstance(fault, ConfigError)}


# ------------------------------------------------------------------------------------------------ reading


def test_an_empty_environment_gives_the_defaults() -> None:
    config = Config.from_env({})
    assert config == Config()
    assert set(config.provenance.values()) == {"default"}


def test_all_nine_variables_are_read_and_remember_where_they_came_from() -> None:
    config = Config.from_env(
        {
            **GOOD,
            "LIVEKIT_AGENT_NAME": "echo",
            "LIVEKIT_NAMESPACE": "tenant",
            "LIVEKIT_MAX_CONCURRENT_JOBS": "7",
            "LIVEKIT_LOG_LEVEL": "DEBUG",
            "LIVEKIT_RECOVERY_ENABLED": "false",
            "LIVEKIT_WEBSOCKET_DEBUG": "yes",
        }
    )
    assert (config.url, config.api_key, config.api_secret) == tuple(GOOD.values())
    assert (config.agent_name, config.namespace, config.max_jobs) == ("echo", "tenant", 7)
    assert (config.log_level, config.recovery_enabled, config.websocket_debug) == ("debug", False, True)
    assert config.provenance["max_jobs"] == "LIVEKIT_MAX_CONCURRENT_JOBS"
    assert config.provenance["url"] == "LIVEKIT_URL"
    assert config.provenance["ca_file"] == "default"
    config.validate()


def test_load_config_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEKIT_AGENT_NAME", "from-the-process")
    before = dict(os.environ)
    assert load_config_from_env().agent_name == "from-the-process"
    assert dict(os.environ) == before


@pytest.mark.parametrize("text", ["unlimited", "UNLIMITED", " Unlimited "])
def test_unlimited_is_the_word_for_no_limit(text: str) -> None:
    config = Config.from_env({"LIVEKIT_MAX_CONCURRENT_JOBS": text})
    assert config.max_jobs is None
    assert config.options().max_jobs is None


def test_empty_and_blank_variables_count_as_unset() -> None:
    assert Config.from_env({"LIVEKIT_URL": "", "LIVEKIT_MAX_CONCURRENT_JOBS": "  "}) == Config()


@pytest.mark.parametrize(
    ("text", "level"),
    [("debug", "debug"), ("Info", "info"), ("WARN", "warn"), ("warning", "warn"), ("error", "error")],
)
def test_log_levels_in_any_case(text: str, level: str) -> None:
    assert Config.from_env({"LIVEKIT_LOG_LEVEL": text}).log_level == level


def test_every_text_without_a_meaning_is_reported_at_once() -> None:
    faults = refused(
        {
            "LIVEKIT_MAX_CONCURRENT_JOBS": "many",
            "LIVEKIT_LOG_LEVEL": "loud",
            "LIVEKIT_RECOVERY_ENABLED": "maybe",
            "LIVEKIT_WEBSOCKET_DEBUG": "2",
        }
    )
    assert sorted(faults) == [
        "LIVEKIT_LOG_LEVEL",
        "LIVEKIT_MAX_CONCURRENT_JOBS",
        "LIVEKIT_RECOVERY_ENABLED",
        "LIVEKIT_WEBSOCKET_DEBUG",
    ]
    assert "unlimited" in faults["LIVEKIT_MAX_CONCURRENT_JOBS"].hint
    assert "debug, info, warn, error" in faults["LIVEKIT_LOG_LEVEL"].hint
    assert all(fault.source in fault.message for fault in faults.values())


# ------------------------------------------------------------------------------------------------ secrets in files


def test_a_secret_may_come_from_a_mounted_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    config = Config.from_env({"LIVEKIT_API_SECRET_FILE": str(path)})
    assert config.api_secret == SECRET
    assert config.provenance["api_secret"] == "LIVEKIT_API_SECRET_FILE"


def test_a_secret_and_its_file_together_are_refused_rather_than_one_of_them_chosen(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    fault = refused({"LIVEKIT_API_SECRET": SECRET, "LIVEKIT_API_SECRET_FILE": str(path)})["LIVEKIT_API_SECRET"]
    assert "both set" in fault.message
    assert SECRET not in fault.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the file: No such file or directory"),
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"\xff\xfe\x80secret", "the file is not text"),
        (b"x" * 65_537, "larger than 65536 bytes"),
    ],
)
def test_an_unusable_secret_file_is_named_but_never_quoted(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    fault = refused({"LIVEKIT_API_KEY_FILE": str(path)})["LIVEKIT_API_KEY_FILE"]
    assert message in fault.message
    assert fault.field == "api_key"
    assert not isinstance(fault.__context__, UnicodeDecodeError)  # it would carry the bytes


def test_only_secrets_have_a_file_variant(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("wss://elsewhere")
    assert Config.from_env({"LIVEKIT_URL_FILE": str(path)}).url == ""


# ------------------------------------------------------------------------------------------------ judging


def test_a_good_configuration_is_silent() -> None:
    Config.from_env(GOOD).validate()


def test_what_is_missing_is_reported_together_with_how_to_set_it() -> None:
    faults = faults_of(Config.from_env({}))
    assert sorted(faults) == ["api_key", "api_secret", "url"]
    assert {fault.code for fault in faults.values()} == {"CONFIG_MISSING"}
    assert "LIVEKIT_API_SECRET_FILE" in faults["api_secret"].hint
    assert "livekit-agent dev" in faults["url"].hint


def test_a_value_of_a_wrong_type_is_told_once_with_all_the_rest_and_never_shown() -> None:
    wrong: dict[str, Any] = {
        "url": 7880, "api_key": b"APIb2cKpQ7xYz9T", "api_secret": ["s3cr3t-that-nobody-may-see"], "agent_name": 1,
        "namespace": "\ud800", "max_jobs": True, "log_level": ("info",), "recovery_enabled": "no",
        "websocket_debug": 1, "proxy_url": 3, "no_proxy": None, "ca_file": 0,
    }  # fmt: skip
    config = Config(**wrong)
    told = faults_of(config)
    assert set(told) == set(wrong)
    assert all("expected" in fault.message for fault in told.values())
    assert "s3cr3t" not in repr(config) + str(told)


@pytest.mark.parametrize("value", ["5", 2.0, math.nan, True])
def test_max_jobs_is_a_whole_number_or_none(value: object) -> None:
    (fault,) = faults_of(Config.from_env(GOOD).with_values("--max-jobs", max_jobs=value)).values()
    assert fault.field == "max_jobs"
    assert fault.message == "--max-jobs: expected a whole number, or None for no limit"


def test_an_empty_proxy_is_none() -> None:
    config = Config.from_env(GOOD).with_values("a program", proxy_url="")
    validate_config(config)
    assert config.proxy is None


@pytest.mark.parametrize("name", ["url", "api_key", "api_secret"])
def test_none_where_something_is_needed_is_not_set(name: str) -> None:
    (fault,) = faults_of(Config.from_env(GOOD).with_values("a program", **{name: None})).values()
    assert (fault.field, fault.code, fault.message) == (name, "CONFIG_MISSING", "a program: not set")


def test_recovery_is_refused_until_it_exists() -> None:
    fault = faults_of(Config.from_env({**GOOD, "LIVEKIT_RECOVERY_ENABLED": "true"}))["recovery_enabled"]
    assert fault.message == "LIVEKIT_RECOVERY_ENABLED: job recovery is not available yet"
    assert "unset" in fault.hint


def test_a_worker_from_a_configuration_that_nobody_validated_refuses_it_too() -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_RECOVERY_ENABLED": "true"})
    with pytest.raises(ConfigError, match="recovery is not available yet") as caught:
        UniversalWorker.from_config(config, SimpleUniversalHandler())
    assert caught.value.hint


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:7880", "http://localhost:7880", "https://h", "wss://h/some/path", "wss://h/?region=eu&x"]
)
def test_urls_that_are_fine(url: str) -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_URL": url})
    config.validate()
    UniversalWorker.from_config(config, SimpleUniversalHandler())


def test_a_query_reaches_the_gateway_that_wants_it_and_no_repr() -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_URL": f"wss://h/lk?tenant={SECRET}"})
    config.validate()
    assert repr(config).startswith("Config(url='wss://h/lk?[hidden]', ")
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:7880", "the scheme must be"),
        ("example.livekit.cloud", "the scheme must be"),
        ("ftp://h", "the scheme must be"),
        ("wss://", "no host"),
        ("wss://h:99999", "not a URL"),
        ("wss://h /", "not a URL"),
        ("wss://[::1", "not a URL"),
        (f"wss://me:{SECRET}@h", "user name or password"),
        (f"wss://h/?access_token={SECRET}", "holds a token"),
        ("wss://h/?x=eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "holds a token"),
        ("wss://h/#part", "fragment"),
    ],
)
def test_urls_that_are_not_say_why_and_are_never_quoted(url: str, message: str) -> None:
    fault = faults_of(Config.from_env({**GOOD, "LIVEKIT_URL": url}))["url"]
    assert message in fault.message
    assert SECRET not in str(fault) + fault.hint


def test_swapped_key_and_secret_are_recognised_without_being_shown() -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_API_KEY": SECRET, "LIVEKIT_API_SECRET": KEY})
    fault = faults_of(config)["api_key"]
    assert "swapped" in fault.hint
    assert SECRET not in repr(config) + str(fault) + fault.hint


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (f'"{SECRET}"', "quotes"),
        (SECRET + " x", "blank"),
        (SECRET + "\u200b", "non-ASCII"),
        ("eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "a token, not a key"),
    ],
)
def test_secrets_that_cannot_work_are_told_without_being_shown(secret: str, message: str) -> None:
    fault = faults_of(Config.from_env({**GOOD, "LIVEKIT_API_SECRET": secret}))["api_secret"]
    assert message in fault.message
    assert secret not in str(fault) + fault.hint


@pytest.mark.parametrize(
    ("text", "ok"), [("0", False), ("-1", False), ("1", True), ("100000", True), ("100001", False)]
)
def test_max_jobs_has_a_range(text: str, ok: bool) -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_MAX_CONCURRENT_JOBS": text})
    if ok:
        config.validate()
    else:
        assert "unlimited" in faults_of(config)["max_jobs"].hint


def test_a_ca_file_must_exist_and_a_proxy_must_be_http(tmp_path: Path) -> None:
    faults = faults_of(
        Config.from_env({**GOOD, "SSL_CERT_FILE": str(tmp_path / "no.pem"), "HTTPS_PROXY": "socks5://proxy:1080"})
    )
    assert faults["ca_file"].source == "SSL_CERT_FILE"
    assert "SOCKS" in faults["proxy_url"].hint


@pytest.mark.parametrize("proxy", ["http://h:99999", "http://h/path", "http://", "https://h:0"])
def test_what_the_worker_would_not_take_as_a_proxy_is_told_with_all_the_rest(proxy: str) -> None:
    assert set(faults_of(Config.from_env({"HTTPS_PROXY": proxy}))) == {"url", "api_key", "api_secret", "proxy_url"}


def test_a_fault_in_a_flag_names_the_flag() -> None:
    config = Config.from_env(GOOD).with_values("--max-jobs", max_jobs=0)
    assert faults_of(config)["max_jobs"].message.startswith("--max-jobs: ")


# ------------------------------------------------------------------------------------------------ secrecy


def test_the_repr_shows_no_secret_and_no_proxy_password() -> None:
    config = Config.from_env({**GOOD, "HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128"})
    assert SECRET not in repr(config)
    assert KEY in repr(config)
    assert "proxy_url=[hidden]" in repr(config)
    assert f"{Config(api_secret=SECRET, url=f'wss://u:{SECRET}@host')}".count(SECRET) == 0


def test_the_provenance_cannot_be_changed() -> None:
    config = Config.from_env(GOOD)
    with pytest.raises(TypeError):
        config.provenance["url"] = "elsewhere"  # type: ignore[index]


# ------------------------------------------------------------------------------------------------ options


def test_options_carry_what_the_environment_says() -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_AGENT_NAME": "echo", "LIVEKIT_MAX_CONCURRENT_JOBS": "5"})
    assert config.options() == WorkerOptions(agent_name="echo", max_jobs=5)


def test_flags_beat_the_environment_which_beats_the_program_which_beats_the_defaults() -> None:
    program = WorkerOptions(agent_name="program", namespace="program", max_jobs=3, shutdown_timeout=5)
    config = Config.from_env({"LIVEKIT_AGENT_NAME": "environment", "LIVEKIT_MAX_CONCURRENT_JOBS": "4"})
    options = config.with_values("--max-jobs", max_jobs=5).options(program)
    assert options == WorkerOptions(agent_name="environment", namespace="program", max_jobs=5, shutdown_timeout=5)


def test_a_worker_from_a_configuration_keeps_what_the_program_wants_and_nobody_else_has_set() -> None:
    config = Config.from_env({**GOOD, "LIVEKIT_MAX_CONCURRENT_JOBS": "5"})
    program = WorkerOptions(job_type=JobType.PARTICIPANT, max_jobs=3, shutdown_timeout=60)
    worker = UniversalWorker.from_config(config, SimpleUniversalHandler(), program)
    assert worker.options == WorkerOptions(job_type=JobType.PARTICIPANT, max_jobs=5, shutdown_timeout=60)


def test_a_configuration_built_by_hand_means_what_differs_from_the_defaults() -> None:
    program = WorkerOptions(agent_name="program", max_jobs=3)
    assert Config(agent_name="by-hand").options(program) == WorkerOptions(agent_name="by-hand", max_jobs=3)


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "no_proxy", "used"),
    [
        ("wss://lk.example.com", "", True),
        ("https://lk.example.com", "", True),
        ("ws://lk.example.com", "", False),  # HTTPS_PROXY speaks of TLS connections only
        ("wss://localhost", "", False),
        ("wss://127.0.0.1:7880", "", False),
        ("wss://[::1]:7880", "", False),
        ("wss://lk.example.com", "example.com", False),
        ("wss://lk.example.com", ".example.com", False),
        ("wss://lk.example.com", "*.example.com", False),
        ("wss://lk.example.com", "EXAMPLE.com , other", False),
        ("wss://lk.example.com", "ample.com", True),
        ("wss://lk.example.com", "*", False),
        ("wss://lk.example.com:7443", "lk.example.com:7443", False),
        ("wss://lk.example.com:7443", "lk.example.com:443", True),
        ("wss://lk.example.com", "lk.example.com:443", False),
        ("wss://10.1.2.3", "10.0.0.0/8", False),
        ("wss://11.1.2.3", "10.0.0.0/8", True),
        ("wss://[fd00::7]", "fd00::/16", False),
        ("wss://lk.example.com", ",,", True),
    ],
)
def test_which_connections_go_through_the_proxy(url: str, no_proxy: str, used: bool) -> None:
    config = Config.from_env({"LIVEKIT_URL": url, "https_proxy": PROXY, "NO_PROXY": no_proxy})
    assert config.options().proxy == (PROXY if used else None)


# ------------------------------------------------------------------------------------------------ helpers


def test_get_env_gives_the_default_for_unset_and_empty() -> None:
    assert get_env("X", "d", environ={}) == "d"
    assert get_env("X", "d", environ={"X": ""}) == "d"
    assert get_env("X", "d", environ={"X": "value"}) == "value"


def test_the_typed_helpers_read_their_type() -> None:
    environ = {"I": " 42 ", "D": "1m30s", "B": "On"}
    assert get_env_int("I", 1, environ=environ) == 42
    assert get_env_duration("D", 1.0, environ=environ) == 90.0
    assert get_env_bool("B", False, environ=environ) is True
    assert (get_env_int("-", 1), get_env_duration("-", 2.0), get_env_bool("-", True)) == (1, 2.0, True)


@pytest.mark.parametrize("helper", [get_env_int, get_env_duration, get_env_bool])
def test_bad_text_raises_or_without_strict_is_the_default(helper: object) -> None:
    environ = {"X": "nonsense"}
    with pytest.raises(ConfigError, match=r"^X: ") as caught:
        helper("X", 1, environ=environ)  # type: ignore[operator]
    assert caught.value.field == "X"
    assert helper("X", 1, strict=False, environ=environ) == 1  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "truth"),
    [(t, True) for t in ("1", "t", "TRUE", "y", "yes", "on")]
    + [(t, False) for t in ("0", "F", "false", "N", "no", "off")],
)
def test_truth_values(text: str, truth: bool) -> None:
    assert get_env_bool("X", not truth, environ={"X": text}) is truth


@pytest.mark.parametrize("text", ["1_000", "٤٢", "1.0", "0x10", "1e3", "9" * 5000])
def test_whole_numbers_are_plain_ascii_digits(text: str) -> None:
    with pytest.raises(ConfigError):
        get_env_int("X", 0, environ={"X": text})


# ------------------------------------------------------------------------------------------------ durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        (90, 90.0),
        (1.5, 1.5),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("0", 0.0),
        ("1m30s", 90.0),
        ("250ms", 0.25),
        ("1h15m30.5s", 4530.5),
        ("1d", 86_400.0),
        ("1.5h", 5_400.0),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("5μs", 5e-6),
        ("7ns", 7e-9),
        ("1m500ms", 60.5),
        ("PT1M30S", 90.0),
        ("pt0.25s", 0.25),
        ("P1DT2H", 93_600.0),
        ("P2W", 1_209_600.0),
        ("PT36H", 129_600.0),
        (" 1s ", 1.0),
        ("inf", math.inf),
        (math.inf, math.inf),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "s",
        "-1", "-1s", "+1s", "1 m", "1m 30s", "1x", "1M", "P", "PT", "P1", "P1M", "P1Y", "PT1", "P1DT", "1h-5m", "1.2.3",
        "nan", "1e3", "٣s", "1,5s", "9" * 65, -1, -0.5, math.nan, True, None, 10**400,
    ],
)  # fmt: skip
def test_what_is_not_a_duration(text: object) -> None:
    with pytest.raises(ConfigError, match="not a duration") as caught:
        parse_duration(text)  # type: ignore[arg-type]
    assert "1m30s" in caught.value.hint


UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": Fraction(1, 1000), "us": Fraction(1, 10**6)}


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS))), min_size=1, max_size=5))
def test_parts_add_up_exactly(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse_duration(text) == float(sum(number * UNITS[unit] for number, unit in parts))


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_iso_form_and_the_unit_form_agree(hours: int, minutes: int, seconds: int, ms: int) -> None:
    iso = f"PT{hours}H{minutes}M{seconds}.{ms:03d}S"
    assert parse_duration(iso) == parse_duration(f"{hours}h{minutes}m{seconds}s{ms}ms")


@given(st.floats(0, 1e15, allow_nan=False))
def test_a_plain_number_is_itself(number: float) -> None:
    assert parse_duration(number) == number
    assert parse_duration(f"{number:.6f}") == float(f"{number:.6f}")


@given(st.text(max_size=80))
def test_no_text_ends_in_anything_but_seconds_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_duration(text) >= 0


@given(st.dictionaries(st.sampled_from([name for row in SETTINGS for name in row.variables]), st.text(max_size=40)))
def test_no_environment_ends_in_anything_but_config_errors(environ: dict[str, str]) -> None:
    try:
        config = Config.from_env(environ)
        config.validate()
        config.options()
    except* ConfigError:
        pass


def test_the_nine_variables_of_the_reference_are_all_there() -> None:
    variables = [row.variables[0] for row in SETTINGS if row.variables[0].startswith("LIVEKIT_")]
    assert sorted(variables) == [
        "LIVEKIT_AGENT_NAME",
        "LIVEKIT_API_KEY",
        "LIVEKIT_API_SECRET",
        "LIVEKIT_LOG_LEVEL",
        "LIVEKIT_MAX_CONCURRENT_JOBS",
        "LIVEKIT_NAMESPACE",
        "LIVEKIT_RECOVERY_ENABLED",
        "LIVEKIT_URL",
        "LIVEKIT_WEBSOCKET_DEBUG",
    ]
    unset_by_variables = ("provenance", "rooms")
    assert [row.name for row in SETTINGS] == [f for f in Config.__dataclass_fields__ if f not in unset_by_variables]
    assert livekit_agent.Config is Config
