"""Which variables are there, and how is one read?

:data:`SETTINGS` is the one table: :meth:`Config.from_env` walks it, and flags and the page about the environment are
made from it.  The ``get_env`` family reads a single variable that is in no table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .._bounds import SECRET_FILE_BYTES_MAX
from .._errors import ConfigError
from ._texts import parse_bool, parse_duration, parse_int, parse_log_level, parse_max_jobs, parse_text

__all__ = [
    "SETTINGS",
    "Environ",
    "Setting",
    "get_env",
    "get_env_bool",
    "get_env_duration",
    "get_env_int",
    "variable_of",
]

T = TypeVar("T")
Environ = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the configuration: a field, the variable that sets it, and what it means."""

    name: str
    """The field of :class:`Config`."""
    variables: tuple[str, ...]
    """The first that is set and not empty counts."""
    help: str
    parse: Callable[[str], object] = field(default=parse_text, repr=False)
    secret: bool = False
    """Never shown, and readable from the file that ``<variable>_FILE`` names."""

    def read(self, env: Environ) -> tuple[object, str] | None:
        """The value and where it came from, or None when nothing is set."""
        named = self.variables + tuple(name + "_FILE" for name in self.variables if self.secret)
        found = [name for name in named if env.get(name, "").strip()]
        if not found:
            return None
        if self.secret and len(found) > 1:
            raise ConfigError(
                f"{found[0]} and {found[1]} are both set", field=self.name, source=found[0], hint="unset one"
            )
        source = found[0]
        text = env[source] if source in self.variables else _read_secret_file(env[source].strip(), source, self.name)
        try:
            return self.parse(text), source
        except ConfigError as fault:
            raise ConfigError(f"{source}: {fault.message}", field=self.name, source=source, hint=fault.hint) from None


SETTINGS: tuple[Setting, ...] = (
    Setting(name="url", variables=("LIVEKIT_URL",), help="URL of the LiveKit server, wss://host"),
    Setting(name="api_key", variables=("LIVEKIT_API_KEY",), help="API key", secret=True),
    Setting(name="api_secret", variables=("LIVEKIT_API_SECRET",), help="API secret", secret=True),
    Setting(
        name="agent_name",
        variables=("LIVEKIT_AGENT_NAME",),
        help="name to be dispatched by; without one, every room gets the agent",
    ),
    Setting(name="namespace", variables=("LIVEKIT_NAMESPACE",), help="namespace of a multi-tenant deployment"),
    Setting(
        name="max_jobs",
        variables=("LIVEKIT_MAX_CONCURRENT_JOBS",),
        help="how many jobs may run at once, a number or `unlimited`",
        parse=parse_max_jobs,
    ),
    Setting(
        name="log_level",
        variables=("LIVEKIT_LOG_LEVEL",),
        help="debug, info, warn or error, in any case",
        parse=parse_log_level,
    ),
    Setting(
        name="recovery_enabled",
        variables=("LIVEKIT_RECOVERY_ENABLED",),
        help="job recovery; not available yet, so `true` is an error",
        parse=parse_bool,
    ),
    Setting(
        name="websocket_debug",
        variables=("LIVEKIT_WEBSOCKET_DEBUG",),
        help="log the kind and size of every message at debug level, never its content",
        parse=parse_bool,
    ),
    Setting(
        name="proxy_url",
        variables=("HTTPS_PROXY", "https_proxy"),
        help="proxy for wss:// connections (CONNECT); never used for loopback",
    ),
    Setting(name="no_proxy", variables=("NO_PROXY", "no_proxy"), help="hosts to reach without the proxy, with commas"),
    Setting(
        name="ca_file",
        variables=("SSL_CERT_FILE",),
        help="PEM file of certificate authorities to trust instead of the system's",
    ),
)
"""Every variable that is read, in the order of the documentation's table."""


def variable_of(name: str) -> str:
    """The variable that sets a field of :class:`Config`."""
    return next((setting.variables[0] for setting in SETTINGS if setting.name == name), name)


def _read_secret_file(path: str, source: str, name: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{source}: cannot read the file: {error.strerror or type(error).__name__}",
            field=name,
            source=source,
            hint="it must name a file that this user may read",
        ) from None
    if len(data) > SECRET_FILE_BYTES_MAX:
        raise ConfigError(f"{source}: the file is larger than {SECRET_FILE_BYTES_MAX} bytes", field=name, source=source)
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = None
    if text is None:
        # Not raised inside the except: the decoding error carries the bytes, and would stay as the context.
        raise ConfigError(f"{source}: the file is not text", field=name, source=source)
    if not text:
        raise ConfigError(f"{source}: the file is empty", field=name, source=source)
    return text


# ---------------------------------------------------------------------------------------------- single variables


def get_env(key: str, default: str = "", *, environ: Environ | None = None) -> str:
    """The variable's text, or ``default`` where it is unset or empty."""
    return (os.environ if environ is None else environ).get(key, "") or default


def get_env_int(key: str, default: int, *, strict: bool = True, environ: Environ | None = None) -> int:
    """The variable as a whole number.  Bad text raises :class:`ConfigError`, or is the default without ``strict``."""
    return _get(key, default, parse_int, strict, environ)


def get_env_duration(key: str, default: float, *, strict: bool = True, environ: Environ | None = None) -> float:
    """The variable as seconds (:func:`parse_duration`).  Bad text: as :func:`get_env_int`."""
    return _get(key, default, parse_duration, strict, environ)


def get_env_bool(key: str, default: bool, *, strict: bool = True, environ: Environ | None = None) -> bool:
    """The variable as a truth value: 1/0, t/f, true/false, y/n, yes/no, on/off.  Bad text: as :func:`get_env_int`."""
    return _get(key, default, parse_bool, strict, environ)


def _get(key: str, default: T, parse: Callable[[str], T], strict: bool, environ: Environ | None) -> T:
    text = get_env(key, environ=environ)
    if not text:
        return default
    try:
        return parse(text)
    except ConfigError as fault:
        if not strict:
            return default
        raise ConfigError(f"{key}: {fault.message}", field=key, source=key, hint=fault.hint) from None
