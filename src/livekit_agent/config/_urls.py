"""What is known about a URL, or a host, without asking anybody?"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from .._options import is_text

__all__ = ["is_loopback", "no_proxy_matches", "split", "without_secrets"]


def split(url: str) -> SplitResult | None:
    """Its parts; None for what is no URL."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - a port out of range is found here and nowhere else
    except ValueError:
        return None
    return parts


def is_loopback(host: str) -> bool:
    """Whether this machine itself is meant."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def no_proxy_matches(no_proxy: str, target: SplitResult) -> bool:
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


def without_secrets(url: str) -> str:
    """The URL for a person: user name, password and query, which may be a gateway's key, are hidden."""
    parts = split(url) if is_text(url) else None
    if parts is None or (url and not parts.hostname):
        return "[not a URL]"
    userinfo, at, _ = parts.netloc.rpartition("@")
    shown = url.replace(userinfo + at, "[hidden]@", 1) if at else url
    return shown.partition("?")[0] + ("?[hidden]" if parts.query else "")
