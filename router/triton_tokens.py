"""Tokens of restricted Tritons: the files that deployments name are looked at whenever Tritons are asked, and what is
new and good in them goes to Envoy. What is broken changes nothing, and an event says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from router.certificates import WatchedFiles
from router.domain.tls import Secret
from router.domain.triton_token import BadToken, TritonToken
from router.events import EventLog


class TokenReader(Protocol):
    """Reads a token's file. Implemented by adapters/triton/tokens.py."""

    def read(self, token: TritonToken) -> Secret:
        """Raises `BadToken`."""


class TokenKeeper(Protocol):
    """Whoever shows tokens to Tritons. Implemented by router/xds/server.py."""

    def set_triton_token(self, token: TritonToken, value: Secret) -> None: ...

    def keep_triton_tokens(self, wanted: Iterable[TritonToken]) -> None:
        """Forget all others."""


@dataclass(slots=True)
class _Kept:
    watched: WatchedFiles
    is_good: bool = False  # it was, at least once


class TritonTokens:
    """Implements `router.tritons.TritonTokenTrust`. Belongs to one event loop."""

    def __init__(self, reader: TokenReader, keeper: TokenKeeper, events: EventLog) -> None:
        self._reader = reader
        self._keeper = keeper
        self._events = events
        self._kept: dict[TritonToken, _Kept] = {}

    def look(self, wanted: Iterable[TritonToken]) -> None:
        """Put in force what is new and good in their files, and forget all others. Reads small files."""
        self._kept = {token: self._kept.get(token) or _Kept(WatchedFiles(token.file)) for token in wanted}
        for token, kept in self._kept.items():
            if kept.watched.is_new():
                self._take(token, kept)
        self._keeper.keep_triton_tokens(self._kept)

    def trouble(self, token: TritonToken) -> str:
        """Why nobody can be asked with it: its file was never good. Empty when somebody can."""
        kept = self._kept.get(token)
        if kept is None or not kept.is_good:
            return (kept and kept.watched.refused) or f"{token.file} is not read yet"
        return ""

    def _take(self, token: TritonToken, kept: _Kept) -> None:
        try:
            value = self._reader.read(token)
        except BadToken as error:
            if kept.is_good and not kept.watched.has_settled:
                return  # it is being written
            kept.watched.take(str(error))
            self._events.publish("token_refused", f"{error}; towards Triton, what was in force before stays")
        else:
            kept.watched.take()
            kept.is_good = True
            self._keeper.set_triton_token(token, value)
