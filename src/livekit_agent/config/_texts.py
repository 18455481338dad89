"""What does a text in a variable mean?

Text without a meaning raises :class:`ConfigError` without naming the variable, which whoever reads it adds.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from .._bounds import DURATION_CHARS_MAX
from .._errors import ConfigError

__all__ = [
    "LOG_LEVELS",
    "UNLIMITED",
    "parse_bool",
    "parse_duration",
    "parse_int",
    "parse_log_level",
    "parse_max_jobs",
    "parse_text",
    "quoted",
]

LOG_LEVELS = ("debug", "info", "warn", "error")
UNLIMITED = "unlimited"

_TRUE = ("1", "t", "true", "y", "yes", "on")
_FALSE = ("0", "f", "false", "n", "no", "off")
_INT = re.compile(r"[+-]?[0-9]{1,18}")

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


def parse_duration(text: str | float) -> float:
    """Seconds from ``"1m30s"``, ``"250ms"``, ``"90"``, ``90``, ISO-8601 ``"PT1M30S"``, or ``"inf"``.

    Units are d, h, m, s, ms, us (µs) and ns; parts add up.  Raises :class:`ConfigError` for anything else: negative
    values, years and months (which have no fixed length), a number that is not one.
    """
    if not isinstance(text, str):
        if isinstance(text, bool) or not isinstance(text, int | float) or not text >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _bad_duration(repr(text))
        try:
            return float(text)
        except OverflowError:
            raise _bad_duration("a whole number that no float can hold") from None
    clean = text.strip()
    if len(clean) > DURATION_CHARS_MAX:
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


def _bad_duration(what: str) -> ConfigError:
    return ConfigError(f"not a duration: {what}", hint='write "90", "1m30s", "250ms" or "PT1M30S"')


def parse_int(text: str) -> int:
    if not _INT.fullmatch(text.strip()):
        raise ConfigError(f"not a whole number: {quoted(text)}")
    return int(text)


def parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise ConfigError(f"neither true nor false: {quoted(text)}", hint="write true or false")
    return word in _TRUE


def parse_max_jobs(text: str) -> int | None:
    if text.strip().lower() == UNLIMITED:
        return None
    try:
        return parse_int(text)
    except ConfigError as fault:
        raise ConfigError(fault.message, hint=f"write a whole number above 0, or {UNLIMITED!r}") from None


def parse_log_level(text: str) -> str:
    word = text.strip().lower()
    level = "warn" if word == "warning" else word
    if level not in LOG_LEVELS:
        raise ConfigError(f"no log level: {quoted(text)}", hint="write " + ", ".join(LOG_LEVELS))
    return level


def parse_text(text: str) -> str:
    return text.strip()


def quoted(text: str) -> str:
    # Somebody may have put a secret into the wrong variable; what is not meant to be read is not repeated at length.
    return repr(text) if len(text) <= 20 else f"text of {len(text)} characters"
