"""Where the values of a user's own metrics come from, and what a URL may look like. Who fetches them is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from router.domain.errors import Invalid

MAX_TEXT = 4096
MAX_ARGUMENTS = 64


@dataclass(frozen=True, slots=True)
class PrometheusQuery:
    """An instant query (PromQL) that gives one number. `server` is the base URL, such as http://prometheus:9090.

    `${candidate}`, `${stable}` and `${endpoint}` in the query stand for the names of the rollout.
    """

    server: str
    query: str

    def __post_init__(self) -> None:
        checked_url("analysis.metrics.prometheus.server", self.server)
        if not self.query.strip() or len(self.query) > MAX_TEXT:
            hint = f"use 1 to {MAX_TEXT} characters"
            raise Invalid("analysis.metrics.prometheus.query", "is empty or too long", hint)


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """A program, run without a shell, whose last line of output is the number."""

    argv: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.argv) <= MAX_ARGUMENTS or not self.argv[0]:
            raise Invalid(
                "analysis.metrics.command",
                "does not name a program",
                f"write it as a list of 1 to {MAX_ARGUMENTS} words, such as [/usr/local/bin/drift, --hours, '1']",
            )
        if any(len(word) > MAX_TEXT or "\0" in word for word in self.argv):
            raise Invalid("analysis.metrics.command", "has a word that is too long, or holds a NUL")


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """A URL that is sent the rollout as JSON and answers {"value": NUMBER}."""

    url: str

    def __post_init__(self) -> None:
        checked_url("analysis.metrics.webhook", self.url)


Source = PrometheusQuery | CommandOutput | WebhookAnswer


def checked_url(key: str, url: str) -> str:
    """Return `url` when it is an absolute http(s) URL that holds no password, else raise `Invalid` for `key`."""
    hint = "write it like http://host:port/path"
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:  # a port that is no number, an IPv6 address that is none
        raise Invalid(key, f"{_quoted(url)} is not a URL", hint) from None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port or not is_plain:
        raise Invalid(key, f"{_quoted(url)} is not an http or https URL", hint)
    if len(url) > MAX_TEXT:
        raise Invalid(key, "the URL is too long", f"use at most {MAX_TEXT} characters")
    if parts.username is not None or parts.password is not None:
        raise Invalid(key, "the URL holds a user or a password", "specs are shown to everybody: leave secrets out")
    return url


def _quoted(url: str) -> str:
    """For a message. What stands before an @ may be a password."""
    return "what is written there" if "@" in url else repr(url[:200])
