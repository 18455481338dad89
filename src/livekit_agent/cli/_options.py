"""The options that several commands share, and how they become a configuration.

A flag that is not given is None, so that flags, the environment, the program's own ``options`` and the defaults can be
told apart (in this order of strength).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click

from .._options import WorkerOptions
from .._types import JobType
from ..config import SETTINGS, Config, default_text, parse_duration
from ._help import Option

__all__ = [
    "Address",
    "Duration",
    "agent_options",
    "backend_option",
    "check_sound",
    "connection_options",
    "debug_option",
    "flags_given",
    "log_option",
    "read_config",
    "timing_options",
    "with_flags",
]

F = TypeVar("F", bound=Callable[..., Any])

CONNECTION, AGENT, TIMING, OUTPUT = "Connection", "Agent", "Time", "Output"

_SETTINGS = {setting.name: setting for setting in SETTINGS}

# Flags that set a field of Config: parameter name -> flag.
_CONFIG_FLAGS = {
    "url": "--url",
    "api_key": "--api-key",
    "api_secret": "--api-secret",
    "agent_name": "--agent-name",
    "namespace": "--namespace",
    "max_jobs": "--max-jobs",
    "log_level": "--log-level",
    "websocket_debug": "--websocket-debug",
    "proxy_url": "--proxy",
    "ca_file": "--ca-file",
}

# Flags that set a field of WorkerOptions only; no variable stands behind them.
_OPTION_FLAGS = ("job_type", "job_timeout", "shutdown_timeout", "max_connect_failures", "allow_plaintext", "deployment")


class Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - generic only since click 8.4
    """Seconds, from ``90``, ``1m30s``, ``250ms`` or ``PT1M30S``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse, or end in a usage error."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Address(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - as above
    """A port, or an address and a port: the address, empty for all of them, and the number."""

    name = "[host:]port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse, or end in a usage error."""
        host, _, port = str(value).rpartition(":")
        if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
            self.fail(f"{value!r} is not [HOST:]PORT, such as 8081 or 127.0.0.1:8081", param, ctx)
        return host.removeprefix("[").removesuffix("]"), int(port)


class MaxJobs(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - as above
    """A number, or ``unlimited``."""

    name = "number|unlimited"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text's meaning is ``config``'s business; the word stands for itself until then."""
        try:
            number = _SETTINGS["max_jobs"].parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        # Not `or`: 0 is a fault, which the configuration names.
        return _UNLIMITED if number is None else number


class _Unlimited:
    """``--max-jobs unlimited``: None would mean that the flag was not given."""

    def __repr__(self) -> str:
        return "unlimited"


_UNLIMITED = _Unlimited()


def _setting(name: str, section: str, **kwargs: Any) -> Callable[[F], F]:
    setting = _SETTINGS[name]
    env = setting.variables[0] + (f" or {setting.variables[0]}_FILE" if setting.secret else "")
    return click.option(
        _CONFIG_FLAGS[name],
        name,
        cls=Option,
        section=section,
        env=env,
        default_text=default_text(setting),
        default=None,
        **{"help": setting.help[0].upper() + setting.help[1:] + ".", **kwargs},
    )


def _apply(function: F, decorators: list[Callable[[F], F]]) -> F:
    # click lists options in the order of declaration, and decorators apply bottom up.
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def connection_options(function: F) -> F:
    """--url, --api-key, --api-secret, --ca-file, --proxy, --allow-plaintext."""
    return _apply(
        function,
        [
            _setting("url", CONNECTION, metavar="URL"),
            _setting("api_key", CONNECTION, metavar="KEY"),
            _setting("api_secret", CONNECTION, metavar="SECRET", help="API secret; seen by whoever lists processes."),
            _setting("ca_file", CONNECTION, metavar="FILE"),
            _setting("proxy_url", CONNECTION, metavar="URL"),
            click.option(
                "--allow-plaintext",
                cls=Option,
                section=CONNECTION,
                is_flag=True,
                default=None,
                default_text="no",
                help="Allow ws:// to other hosts than this one; the token then travels in the clear.",
            ),
        ],
    )


def agent_options(function: F) -> F:
    """--agent-name, --namespace, --job-type, --max-jobs, --deployment."""
    return _apply(
        function,
        [
            _setting("agent_name", AGENT, metavar="NAME"),
            _setting("namespace", AGENT, metavar="NAME"),
            click.option(
                "--job-type",
                cls=Option,
                section=AGENT,
                default_text="room",
                type=click.Choice(["room", "participant", "publisher"]),
                help="What the agent is given: rooms, participants, or participants that publish.",
            ),
            _setting("max_jobs", AGENT, type=MaxJobs(), metavar="NUMBER|unlimited"),
            click.option("--deployment", cls=Option, section=AGENT, metavar="NAME", help="Name of the deployment."),
        ],
    )


def timing_options(function: F) -> F:
    """--job-timeout, --shutdown-timeout, --max-connect-failures."""
    return _apply(
        function,
        [
            click.option(
                "--job-timeout",
                cls=Option,
                section=TIMING,
                default_text="none",
                type=Duration(),
                help="How long a job may last, from its assignment.",
            ),
            click.option(
                "--shutdown-timeout",
                cls=Option,
                section=TIMING,
                default_text="30s",
                type=Duration(),
                help="How long running jobs may take to end when the worker stops.",
            ),
            click.option(
                "--max-connect-failures",
                cls=Option,
                section=TIMING,
                default_text="never",
                type=click.IntRange(min=1),
                metavar="NUMBER",
                help="Give up after so many failures to connect in a row.",
            ),
        ],
    )


def log_option(function: F) -> F:
    """--log-level."""
    return _setting(
        "log_level",
        OUTPUT,
        type=click.Choice(["debug", "info", "warn", "error"], case_sensitive=False),
        help="How much to log, to stderr.",
    )(function)


def debug_option(function: F) -> F:
    """--websocket-debug, of workers."""
    return _setting("websocket_debug", OUTPUT, is_flag=True)(function)


def backend_option(function: F) -> F:
    """--backend."""
    return click.option(
        "--backend",
        cls=Option,
        section=OUTPUT,
        default="asyncio",
        default_text="asyncio",
        type=click.Choice(["asyncio", "trio"]),
        help="The event loop to run on.",
    )(function)


def check_sound(path: str) -> None:
    """A usage error for a file that --play could not play: found before anybody is in a room."""
    import wave

    try:
        wave.open(path, "rb").close()
    except OSError as error:
        raise click.UsageError(f"--play: {path!r} cannot be read: {error.strerror}") from None
    except (wave.Error, EOFError):
        raise click.UsageError(f"--play: {path!r} is no WAV file") from None


def read_config(flags: Mapping[str, Any]) -> Config:
    """The environment's configuration with the given flags over it."""
    config = Config.from_env()
    for name, flag in _CONFIG_FLAGS.items():
        value = flags.get(name)
        if value is not None:
            config = config.with_values(flag, **{name: None if value is _UNLIMITED else value})
    return config


def with_flags(options: WorkerOptions, flags: Mapping[str, Any]) -> WorkerOptions:
    """``options`` with the flags that no variable stands behind."""
    given = {name: flags[name] for name in _OPTION_FLAGS if flags.get(name) is not None}
    if "job_type" in given:
        given["job_type"] = JobType[given["job_type"].upper()]
    return replace(options, **given)


def flags_given(flags: Mapping[str, Any], *, options_only: bool = False) -> list[str]:
    """The flags that were typed: all that make a worker, or only those that Config does not carry."""
    spelt = {} if options_only else {name: flag for name, flag in _CONFIG_FLAGS.items() if name != "log_level"}
    spelt |= {name: "--" + name.replace("_", "-") for name in _OPTION_FLAGS}
    return [flag for name, flag in spelt.items() if flags.get(name) is not None]
