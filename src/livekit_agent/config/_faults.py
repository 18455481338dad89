"""What is wrong with a configuration?  Every fault at once, so that a deployment is repaired in one round.

What may be a secret in the wrong place, a URL or a key, is repeated in no message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from .._bounds import JOBS_MAX
from .._errors import ConfigError, redact
from .._options import is_int, is_text, valid_proxy
from ._settings import variable_of
from ._texts import LOG_LEVELS, UNLIMITED, quoted
from ._urls import split

if TYPE_CHECKING:
    from ._config import Config

__all__ = ["DEFAULT", "faults", "raise_together", "shown_key"]

DEFAULT = "default"
"""Where a value comes from that nobody set."""

_REQUIRED = ("url", "api_key", "api_secret")
_TEXTS = (*_REQUIRED, "agent_name", "namespace", "log_level", "no_proxy")
_TEXTS_OR_NONE = ("proxy_url", "ca_file")
_SWITCHES = ("recovery_enabled", "websocket_debug")

_CONTROL_OR_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")

# LiveKit mints keys as "API" + 12 characters and secrets of 43; self-hosters choose their own ("devkey", "secret"), so
# only the pair together says that something is wrong.
_LOOKS_LIKE_KEY = re.compile(r"API[0-9A-Za-z]{9,17}")
_LOOKS_LIKE_SECRET_CHARS = 32


def raise_together(faults: Iterable[ConfigError]) -> None:
    """Raise an ``ExceptionGroup`` of them, if there are any."""
    found = list(faults)
    if found:
        count = "1 fault" if len(found) == 1 else f"{len(found)} faults"
        raise ExceptionGroup(f"{count} in the configuration", found)


def faults(config: Config) -> Iterable[ConfigError]:
    """All of them.  A value of a wrong type is told once and judged no further; None is nothing set."""
    wrong = {fault.field: fault for fault in _type_faults(config)}
    yield from wrong.values()
    defaults = {
        each.name: each.default for each in fields(config) if each.name in wrong or getattr(config, each.name) is None
    }
    yield from (fault for fault in _value_faults(replace(config, **defaults)) if fault.field not in wrong)


def _type_faults(config: Config) -> Iterable[ConfigError]:
    for name in _TEXTS:
        value = getattr(config, name)
        if not is_text(value) and not (value is None and name in _REQUIRED):
            yield _fault(config, name, "expected text that UTF-8 can write")
    for name in _TEXTS_OR_NONE:
        value = getattr(config, name)
        if value is not None and not is_text(value):
            yield _fault(config, name, "expected text, or None")
    for name in _SWITCHES:
        if not isinstance(getattr(config, name), bool):
            yield _fault(config, name, "expected True or False")
    if config.max_jobs is not None and not is_int(config.max_jobs):
        yield _fault(config, "max_jobs", "expected a whole number, or None for no limit")


def _value_faults(config: Config) -> Iterable[ConfigError]:
    yield from _url_faults(config)
    yield from _credential_faults(config)
    if config.max_jobs is not None and not 1 <= config.max_jobs <= JOBS_MAX:
        yield _fault(
            config, "max_jobs", f"{config.max_jobs} is not in 1..{JOBS_MAX}", f"write {UNLIMITED!r} for no limit"
        )
    if config.log_level not in LOG_LEVELS:
        yield _fault(config, "log_level", f"no log level: {quoted(config.log_level)}", "write " + ", ".join(LOG_LEVELS))
    if config.recovery_enabled:
        yield _fault(
            config,
            "recovery_enabled",
            "job recovery is not available yet",
            "unset LIVEKIT_RECOVERY_ENABLED; a failed job is reported FAILED and not tried again",
        )
    yield from _network_faults(config)


def _fault(config: Config, name: str, message: str, hint: str = "", code: str = "") -> ConfigError:
    source = config.source(name)
    label = variable_of(name) if source == DEFAULT else source
    return ConfigError(f"{label}: {message}", field=name, source=source, hint=hint, code=code)


def _url_faults(config: Config) -> Iterable[ConfigError]:
    if not config.url:
        yield _fault(
            config,
            "url",
            "not set",
            "set LIVEKIT_URL or --url to your server, such as wss://my-project.livekit.cloud; "
            "`livekit-agent dev FILE` needs none",
            "CONFIG_MISSING",
        )
        return
    parts = split(config.url)
    # The URL itself is repeated nowhere here: it may hold a password or be the secret in the wrong variable.
    if parts is None or _CONTROL_OR_BLANK.search(config.url):
        yield _fault(config, "url", "not a URL", "write wss://host or ws://127.0.0.1:7880")
    elif parts.scheme not in ("ws", "wss", "http", "https"):
        yield _fault(
            config, "url", "the scheme must be ws, wss, http or https", "write wss://host or ws://127.0.0.1:7880"
        )
    elif not parts.hostname:
        yield _fault(config, "url", "no host in it", "write wss://host or ws://127.0.0.1:7880")
    elif parts.username is not None or parts.password is not None:
        yield _fault(config, "url", "it holds a user name or password", "key and secret have variables of their own")
    elif parts.fragment:
        yield _fault(config, "url", "it has a fragment", "only scheme, host, port, path and query are used")
    elif redact(parts.query) != parts.query:
        yield _fault(config, "url", "its query holds a token", "the worker mints its own tokens from key and secret")


def _credential_faults(config: Config) -> Iterable[ConfigError]:
    for name, flag in (("api_key", "--api-key"), ("api_secret", "--api-secret")):
        value: str = getattr(config, name)
        if not value:
            variable = variable_of(name)
            yield _fault(config, name, "not set", f"set {variable}, {variable}_FILE or {flag}", code="CONFIG_MISSING")
        elif value[0] in "\"'" or value[-1] in "\"'":
            yield _fault(config, name, "it has quotes around it", "the quotes of a .env file are not part of the value")
        elif _CONTROL_OR_BLANK.search(value) or not value.isascii():
            yield _fault(config, name, "it holds a blank, a control or a non-ASCII character", "copy it again")
        elif value.startswith("eyJ"):
            yield _fault(
                config, name, "it is a token, not a key", "the worker mints its own tokens from key and secret"
            )
    if _LOOKS_LIKE_KEY.fullmatch(config.api_secret) and len(config.api_key) >= _LOOKS_LIKE_SECRET_CHARS:
        yield _fault(
            config,
            "api_key",
            "it looks like a secret, and the secret looks like a key",
            "are LIVEKIT_API_KEY and LIVEKIT_API_SECRET swapped?",
        )


def _network_faults(config: Config) -> Iterable[ConfigError]:
    if config.proxy_url and not valid_proxy(config.proxy_url):
        yield _fault(config, "proxy_url", "not a proxy URL", "write http://host:port; SOCKS is not supported")
    if config.ca_file is not None and not os.path.isfile(config.ca_file):
        yield _fault(config, "ca_file", "no such file", "it must name a PEM file of certificates")


def shown_key(key: str) -> str:
    """An API key for a person: shown only when it looks like one, for a swapped pair would put the secret there."""
    if not key:
        return "[not set]"
    return repr(key) if is_text(key) and _LOOKS_LIKE_KEY.fullmatch(key) else "[hidden]"
