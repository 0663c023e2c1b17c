"""Where the URL of a control plane or of a scoring port leads: to this machine or another, with or without TLS."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

UNIX = "unix:"  # what the URL of a socket begins with


def is_https(url: str) -> bool:
    return url.lower().startswith("https:")


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine: such calls must never go through a proxy from the environment."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not a URL at all
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def is_on_a_network(url: str) -> bool:
    """Whether the URL names another machine, or may."""
    try:
        return bool(urlsplit(url).hostname) and not is_loopback(url)
    except ValueError:
        return False
