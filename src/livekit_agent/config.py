"""Configuration: what the environment says, as one checked value.

The library never reads the environment by itself; this module does, and only when asked
(:func:`load_config_from_env`, :meth:`Config.from_env`, the ``get_env`` family).  It is the one home of ``os.environ``
and never changes it.

Reading and judging are two steps, because flags may come between them.  :meth:`Config.from_env` refuses text that has
no meaning (``LIVEKIT_MAX_CONCURRENT_JOBS=many``); :func:`validate_config` judges the whole (no URL, key and secret
swapped).  Both collect every fault and raise them together as an ``ExceptionGroup`` of :class:`ConfigError`, so that a
deployment is repaired in one round.  Each value remembers where it came from: ``config.provenance["url"]``.

A secret may come from a mounted file: ``LIVEKIT_API_SECRET_FILE=/run/secrets/livekit``.  No secret is ever part of a
repr, a message or a hint; an API key is shown only when it looks like one, because a swapped pair would put the secret
there.

Layer 5.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

from ._bounds import JOBS_MAX, SECRET_FILE_BYTES_MAX
from ._errors import ConfigError, redact
from ._options import WorkerOptions

if TYPE_CHECKING:
    from typing import Self

    from .rooms import RoomConnector

__all__ = [
    "SETTINGS",
    "Config",
    "Setting",
    "get_env",
    "get_env_bool",
    "get_env_duration",
    "get_env_int",
    "load_config_from_env",
    "parse_duration",
    "validate_config",
]

T = TypeVar("T")
Environ = Mapping[str, str]

LOG_LEVELS = ("debug", "info", "warn", "error")
UNLIMITED = "unlimited"
DEFAULT = "default"

_TRUE = ("1", "t", "true", "y", "yes", "on")
_FALSE = ("0", "f", "false", "n", "no", "off")
_INT = re.compile(r"[+-]?[0-9]{1,18}")
_CONTROL_OR_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")

# LiveKit mints keys as "API" + 12 characters and secrets of 43; self-hosters choose their own ("devkey", "secret"), so
# only the pair together says that something is wrong.
_LOOKS_LIKE_KEY = re.compile(r"API[0-9A-Za-z]{9,17}")
_LOOKS_LIKE_SECRET_CHARS = 32


# ------------------------------------------------------------------------------------------------ the configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where to connect and as whom, and the few options that the environment may set.  Frozen; not checked when built.

    Check it with :meth:`validate`, change it with :meth:`with_values`, turn it into options with :meth:`options`.
    """

    url: str = ""
    """The server, ``wss://host``.  A path is kept; ``https`` means ``wss``."""

    api_key: str = field(default="", repr=False)
    api_secret: str = field(default="", repr=False)

    agent_name: str = ""
    namespace: str = ""

    max_jobs: int | None = 1
    """None: no limit; written ``unlimited`` in the environment."""

    log_level: str = "info"

    recovery_enabled: bool = False
    """The reference's switch.  True is refused until job recovery exists, rather than accepted and ignored."""

    websocket_debug: bool = False

    proxy_url: str | None = field(default=None, repr=False)
    """What HTTPS_PROXY says; may hold a password.  :attr:`proxy` is what applies to :attr:`url`."""

    no_proxy: str = ""
    ca_file: str | None = None

    rooms: RoomConnector | None = field(default=None, repr=False, compare=False)
    """Where jobs join; None: real rooms.  No variable sets it; ``livekit-agent dev`` puts its own server's here."""

    provenance: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    """Field name to where its value came from: a variable, a flag, or ``default``."""

    @classmethod
    def from_env(cls, environ: Environ | None = None) -> Self:
        """What ``environ`` (the process's own by default) says.

        Unset and empty variables mean the default.  Raises an ``ExceptionGroup`` of :class:`ConfigError` with every
        value that has no meaning; what is missing is not judged here, for a flag may still supply it.
        """
        env = os.environ if environ is None else environ
        values: dict[str, object] = {}
        provenance: dict[str, str] = {}
        faults: list[ConfigError] = []
        for setting in SETTINGS:
            provenance[setting.name] = DEFAULT
            try:
                found = setting.read(env)
            except ConfigError as fault:
                faults.append(fault)
            else:
                if found is not None:
                    values[setting.name], provenance[setting.name] = found
        _raise_together(faults)
        return cls(**values, provenance=MappingProxyType(provenance))  # pyright: ignore[reportArgumentType]

    def with_values(self, source: str, /, **values: object) -> Self:
        """A copy with ``values`` from ``source``, which is a flag (``"--url"``) or whatever names it to a person."""
        provenance = {**self.provenance, **dict.fromkeys(values, source)}
        return replace(self, **values, provenance=MappingProxyType(provenance))  # pyright: ignore[reportArgumentType]

    def validate(self) -> None:
        """Raise an ``ExceptionGroup`` of :class:`ConfigError` with every fault there is."""
        _raise_together(_faults(self))

    def options(self, base: WorkerOptions | None = None) -> WorkerOptions:
        """The options that this configuration asks for.

        With ``base`` only those fields change that were really set, by the environment or a flag: what a program wrote
        down is stronger than our defaults and weaker than whoever deploys it.
        """
        asked: dict[str, object] = {
            "agent_name": self.agent_name,
            "namespace": self.namespace,
            "max_jobs": self.max_jobs,
            "websocket_debug": self.websocket_debug,
            "proxy": self.proxy,
            "ca_file": self.ca_file,
        }
        if base is not None:
            homes = {"proxy": "proxy_url"}
            asked = {name: value for name, value in asked.items() if self._was_set(homes.get(name, name))}
        return replace(base or WorkerOptions(), **asked)  # pyright: ignore[reportArgumentType]

    @property
    def proxy(self) -> str | None:
        """The proxy for :attr:`url`: HTTPS_PROXY unless the URL is plain, on loopback, or excepted by NO_PROXY."""
        target = _split(self.url)
        if not self.proxy_url or target is None or target.scheme not in ("wss", "https"):
            return None
        excepted = _is_loopback(target.hostname or "") or _no_proxy_matches(self.no_proxy, target)
        return None if excepted else self.proxy_url

    def source(self, name: str) -> str:
        """Where the value of field ``name`` came from."""
        return self.provenance.get(name, DEFAULT)

    def _was_set(self, name: str) -> bool:
        if name in self.provenance:
            return self.provenance[name] != DEFAULT
        # Built by hand, without provenance: a value that differs from the default was meant.
        return getattr(self, name) != getattr(_DEFAULTS, name)

    def __repr__(self) -> str:
        proxy = ", proxy_url=[hidden]" if self.proxy_url else ""
        return (
            f"Config(url={_without_secrets(self.url)!r}, api_key={_shown_key(self.api_key)}, "
            f"api_secret={'[hidden]' if self.api_secret else '[not set]'}, agent_name={self.agent_name!r}, "
            f"namespace={self.namespace!r}, max_jobs={self.max_jobs}, log_level={self.log_level!r}, "
            f"websocket_debug={self.websocket_debug}{proxy}, ca_file={self.ca_file!r})"
        )


_DEFAULTS = Config()


def load_config_from_env() -> Config:
    """``Config.from_env()``: the environment of this process."""
    return Config.from_env()


def validate_config(config: Config) -> None:
    """Raise an ``ExceptionGroup`` of :class:`ConfigError` with every fault of ``config``."""
    config.validate()


# ---------------------------------------------------------------------------------------------- single values


def get_env(key: str, default: str = "", *, environ: Environ | None = None) -> str:
    """The variable's text, or ``default`` where it is unset or empty."""
    return (os.environ if environ is None else environ).get(key, "") or default


def get_env_int(key: str, default: int, *, strict: bool = True, environ: Environ | None = None) -> int:
    """The variable as a whole number.  Bad text raises :class:`ConfigError`, or is the default without ``strict``."""
    return _get(key, default, _parse_int, strict, environ)


def get_env_duration(key: str, default: float, *, strict: bool = True, environ: Environ | None = None) -> float:
    """The variable as seconds (:func:`parse_duration`).  Bad text: as :func:`get_env_int`."""
    return _get(key, default, parse_duration, strict, environ)


def get_env_bool(key: str, default: bool, *, strict: bool = True, environ: Environ | None = None) -> bool:
    """The variable as a truth value: 1/0, t/f, true/false, y/n, yes/no, on/off.  Bad text: as :func:`get_env_int`."""
    return _get(key, default, _parse_bool, strict, environ)


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


# ---------------------------------------------------------------------------------------------- reading texts


def parse_duration(text: str | float) -> float:
    """Seconds from ``"1m30s"``, ``"250ms"``, ``"90"``, ``90``, ISO-8601 ``"PT1M30S"``, or ``"inf"``.

    Units are d, h, m, s, ms, us (µs) and ns; parts add up.  Raises :class:`ConfigError` for anything else: negative
    values, years and months (which have no fixed length), a number that is not one.
    """
    if not isinstance(text, str):
        if isinstance(text, bool) or not isinstance(text, int | float) or not text >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _bad_duration(repr(text))
        return float(text)
    clean = text.strip()
    if len(clean) > _DURATION_CHARS_MAX:
        raise _bad_duration(f"text of {len(clean)} characters")
    if clean.lower() in ("inf", "infinity"):
        return math.inf
    if _PLAIN.fullmatch(clean):
        return float(clean)
    # Fractions, so that "0.1s" and "100ms" are the same float and no part loses what another one gains.
    if _UNITS.fullmatch(clean):
        return float(sum(Fraction(number) * _UNIT_SECONDS[unit] for number, unit in _UNITS_PART.findall(clean)))
    if _ISO.fullmatch(clean.upper()):
        return float(sum(Fraction(number) * _ISO_SECONDS[unit] for number, unit in _ISO_PART.findall(clean.upper())))
    raise _bad_duration(repr(clean))


_DURATION_CHARS_MAX = 64
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(_NUMBER)
_UNITS_PART = re.compile(rf"({_NUMBER})(d|h|ms|us|µs|μs|ns|m|s)")
_UNITS = re.compile(rf"(?:{_NUMBER}(?:d|h|ms|us|µs|μs|ns|m|s))+")
_ISO_PART = re.compile(rf"({_NUMBER})([WDHMS])")
# Each lookahead refuses an empty part ("P", "PT"); there is no M before the T, which would be months.
_ISO = re.compile(
    rf"P(?=[0-9.T])(?:{_NUMBER}W)?(?:{_NUMBER}D)?"
    rf"(?:T(?=[0-9.])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
)
_UNIT_SECONDS = {
    "d": Fraction(86_400),
    "h": Fraction(3_600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1_000),
    "us": Fraction(1, 1_000_000),
    "µs": Fraction(1, 1_000_000),
    "μs": Fraction(1, 1_000_000),
    "ns": Fraction(1, 1_000_000_000),
}
_ISO_SECONDS = {
    "W": Fraction(604_800),
    "D": Fraction(86_400),
    "H": Fraction(3_600),
    "M": Fraction(60),
    "S": Fraction(1),
}


def _bad_duration(what: str) -> ConfigError:
    return ConfigError(f"not a duration: {what}", hint='write "90", "1m30s", "250ms" or "PT1M30S"')


def _parse_int(text: str) -> int:
    if not _INT.fullmatch(text.strip()):
        raise ConfigError(f"not a whole number: {_quoted(text)}")
    return int(text)


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise ConfigError(f"neither true nor false: {_quoted(text)}", hint="write true or false")
    return word in _TRUE


def _parse_max_jobs(text: str) -> int | None:
    if text.strip().lower() == UNLIMITED:
        return None
    try:
        return _parse_int(text)
    except ConfigError as fault:
        raise ConfigError(fault.message, hint=f"write a whole number above 0, or {UNLIMITED!r}") from None


def _parse_log_level(text: str) -> str:
    word = text.strip().lower()
    level = "warn" if word == "warning" else word
    if level not in LOG_LEVELS:
        raise ConfigError(f"no log level: {_quoted(text)}", hint="write " + ", ".join(LOG_LEVELS))
    return level


def _parse_text(text: str) -> str:
    return text.strip()


def _quoted(text: str) -> str:
    # Somebody may have put a secret into the wrong variable; what is not meant to be read is not repeated at length.
    return repr(text) if len(text) <= 20 else f"text of {len(text)} characters"


# ------------------------------------------------------------------------------------------------ the variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the configuration: a field, the variable that sets it, and what it means."""

    name: str
    """The field of :class:`Config`."""
    variables: tuple[str, ...]
    """The first that is set and not empty counts."""
    help: str
    parse: Callable[[str], object] = field(default=_parse_text, repr=False)
    secret: bool = False
    """Never shown, and readable from the file that ``<variable>_FILE`` names."""

    @property
    def default(self) -> str:
        """The default as one would write it in the environment; empty for none."""
        value = getattr(_DEFAULTS, self.name)
        if self.name == "max_jobs" and value is None:
            return UNLIMITED
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

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
        parse=_parse_max_jobs,
    ),
    Setting(
        name="log_level",
        variables=("LIVEKIT_LOG_LEVEL",),
        help="debug, info, warn or error, in any case",
        parse=_parse_log_level,
    ),
    Setting(
        name="recovery_enabled",
        variables=("LIVEKIT_RECOVERY_ENABLED",),
        help="job recovery; not available yet, so `true` is an error",
        parse=_parse_bool,
    ),
    Setting(
        name="websocket_debug",
        variables=("LIVEKIT_WEBSOCKET_DEBUG",),
        help="log the kind and size of every message at debug level, never its content",
        parse=_parse_bool,
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


# ----------------------------------------------------------------------------------------------------- judging


def _raise_together(faults: Iterable[ConfigError]) -> None:
    found = list(faults)
    if found:
        count = "1 fault" if len(found) == 1 else f"{len(found)} faults"
        raise ExceptionGroup(f"{count} in the configuration", found)


def _faults(config: Config) -> Iterable[ConfigError]:
    yield from _url_faults(config)
    yield from _credential_faults(config)
    if config.max_jobs is not None and not 1 <= config.max_jobs <= JOBS_MAX:
        yield _fault(
            config, "max_jobs", f"{config.max_jobs} is not in 1..{JOBS_MAX}", f"write {UNLIMITED!r} for no limit"
        )
    if config.log_level not in LOG_LEVELS:
        yield _fault(
            config, "log_level", f"no log level: {_quoted(config.log_level)}", "write " + ", ".join(LOG_LEVELS)
        )
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
    label = _variable(name) if source == DEFAULT else source
    return ConfigError(f"{label}: {message}", field=name, source=source, hint=hint, code=code)


def _variable(name: str) -> str:
    return next((setting.variables[0] for setting in SETTINGS if setting.name == name), name)


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
    parts = _split(config.url)
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
            variable = _variable(name)
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
    if config.proxy_url:
        parts = _split(config.proxy_url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            yield _fault(config, "proxy_url", "not a proxy URL", "write http://host:port; SOCKS is not supported")
    if config.ca_file is not None and not os.path.isfile(config.ca_file):
        yield _fault(config, "ca_file", "no such file", "it must name a PEM file of certificates")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - a port out of range is found here and nowhere else
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _no_proxy_matches(no_proxy: str, target: SplitResult) -> bool:
    """curl's and Go's reading: ``*``, a host, a domain with all below it, ``host:port``, an address or network."""
    host = (target.hostname or "").lower()
    port = target.port or 443
    for item in (part.strip().lower() for part in no_proxy.split(",")):
        if item == "*":
            return True
        name, _, item_port = item.rpartition(":") if item.count(":") == 1 else (item, "", "")
        if item_port and item_port != str(port):
            continue
        domain = name.removeprefix("*").removeprefix(".")
        if (domain and (host == domain or host.endswith("." + domain))) or _in_network(host, name):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _without_secrets(url: str) -> str:
    """The URL for a person: user name, password and query, which may be a gateway's key, are hidden."""
    parts = _split(url)
    if parts is None or (url and not parts.hostname):
        return "[not a URL]"
    userinfo, at, _ = parts.netloc.rpartition("@")
    shown = url.replace(userinfo + at, "[hidden]@", 1) if at else url
    return shown.partition("?")[0] + ("?[hidden]" if parts.query else "")


def _shown_key(key: str) -> str:
    if not key:
        return "[not set]"
    return repr(key) if _LOOKS_LIKE_KEY.fullmatch(key) else "[hidden]"
