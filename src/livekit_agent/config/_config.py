"""The configuration: a frozen value that is read, changed by flags, judged, and made into options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from .._errors import ConfigError
from .._options import WorkerOptions
from ._faults import DEFAULT, faults, raise_together, shown_key
from ._settings import SETTINGS, Environ, Setting
from ._texts import UNLIMITED
from ._urls import is_loopback, no_proxy_matches, split, without_secrets

if TYPE_CHECKING:
    from typing import Self

    from ..rooms import RoomConnector

__all__ = ["Config", "default_text", "load_config_from_env", "validate_config"]


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
        bad: list[ConfigError] = []
        for setting in SETTINGS:
            provenance[setting.name] = DEFAULT
            try:
                found = setting.read(env)
            except ConfigError as fault:
                bad.append(fault)
            else:
                if found is not None:
                    values[setting.name], provenance[setting.name] = found
        raise_together(bad)
        return cls(**values, provenance=MappingProxyType(provenance))  # pyright: ignore[reportArgumentType]

    def with_values(self, source: str, /, **values: object) -> Self:
        """A copy with ``values`` from ``source``, which is a flag (``"--url"``) or whatever names it to a person."""
        provenance = {**self.provenance, **dict.fromkeys(values, source)}
        return replace(self, **values, provenance=MappingProxyType(provenance))  # pyright: ignore[reportArgumentType]

    def validate(self) -> None:
        """Raise an ``ExceptionGroup`` of :class:`ConfigError` with every fault there is."""
        raise_together(faults(self))

    def options(self, base: WorkerOptions | None = None) -> WorkerOptions:
        """The options that this configuration asks for.

        With ``base`` only those fields change that were really set, by the environment or a flag: what a program wrote
        down is stronger than our defaults and weaker than whoever deploys it.  ConfigError for what no option stands
        for: job recovery, also where nobody asked :meth:`validate`.
        """
        if self.recovery_enabled:
            raise next(fault for fault in faults(self) if fault.field == "recovery_enabled")
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
        target = split(self.url)
        if not self.proxy_url or target is None or target.scheme not in ("wss", "https"):
            return None
        excepted = is_loopback(target.hostname or "") or no_proxy_matches(self.no_proxy, target)
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
            f"Config(url={without_secrets(self.url)!r}, api_key={shown_key(self.api_key)}, "
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


def default_text(setting: Setting) -> str:
    """A setting's default as one would write it in the environment; empty for none."""
    value = getattr(_DEFAULTS, setting.name)
    if setting.name == "max_jobs" and value is None:
        return UNLIMITED
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
