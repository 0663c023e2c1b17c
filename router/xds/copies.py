"""Copies: the versions of one resource that one client may hold. Part of stream.py's bookkeeping, and as pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from router.xds.resources import Resource


@dataclass(frozen=True, slots=True)
class Unknown:
    """A version that the client held when it connected, of which we have only the name."""

    version: str


Content = Resource | Unknown | None  # None: absent, or its removal


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the client was told and has not confirmed. Without a nonce no answer is awaited: it may have taken it."""

    nonce: str
    content: Content


@dataclass(slots=True)
class Copies:
    """`confirmed`: what the client surely held once; `sent`: what it was told since, oldest first."""

    confirmed: Content = None
    sent: list[_Sent] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return self.confirmed is None and not self.sent

    @property
    def is_certain(self) -> bool:
        """The client holds some version, and keeps one until it is told otherwise."""
        return self.confirmed is not None and all(sent.content is not None for sent in self.sent)

    @property
    def is_awaiting(self) -> bool:
        return any(sent.nonce for sent in self.sent)

    @property
    def latest_version(self) -> str | None:
        """The version that the client ends up with when it accepts all; None when that is open, or nothing."""
        if not self.sent:
            return self.confirmed.version if self.confirmed is not None else None
        last = self.sent[-1]
        return last.content.version if last.nonce and last.content is not None else None

    @property
    def is_removal_under_way(self) -> bool:
        return bool(self.sent) and bool(self.sent[-1].nonce) and self.sent[-1].content is None

    def was_sent(self, nonce: str) -> bool:
        return any(sent.nonce == nonce for sent in self.sent)

    def all(self) -> Iterator[Content]:
        yield self.confirmed
        yield from (sent.content for sent in self.sent)

    def send(self, nonce: str, content: Resource | None) -> None:
        self.sent.append(_Sent(nonce, content))

    def confirm(self, nonce: str) -> list[Content]:
        """The client took what was sent with the nonce. Returns what it certainly holds no more."""
        position = self._position(nonce)
        overtaken = [self.confirmed, *(sent.content for sent in self.sent[:position])]
        self.confirmed = self.sent[position].content
        del self.sent[: position + 1]
        return overtaken

    def refuse(self, nonce: str) -> list[Content]:
        """The client refused what was sent with the nonce, hence the same content at any time. Returns those copies."""
        refused = self.sent[self._position(nonce)].content
        dropped = [sent for sent in self.sent if sent.nonce == nonce or (not sent.nonce and sent.content == refused)]
        self.sent = [sent for sent in self.sent if sent not in dropped]
        return [sent.content for sent in dropped]

    def doubt(self, nonce: str) -> None:
        """The client refused this together with others, and may have taken it all the same."""
        position = self._position(nonce)
        self.sent[position] = replace(self.sent[position], nonce="")

    def doubt_all(self) -> None:
        """No answer to what was told so far says anything any more."""
        known = [] if self.confirmed is None else [_Sent("", self.confirmed)]
        self.confirmed = None
        self.sent = known + [replace(sent, nonce="") for sent in self.sent]

    def _position(self, nonce: str) -> int:
        return next(index for index, sent in enumerate(self.sent) if sent.nonce == nonce)
