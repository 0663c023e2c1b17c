"""Who may use the admin API: finds the operator behind a token, and keeps the tokens."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

from router.domain.access import Operator, Role, Token, hash_of, new_secret
from router.domain.audit import Record
from router.domain.errors import Conflict, NotFound

ROOT = "root"  # the name of the token in <data-dir>/admin.token

_WINDOW = timedelta(minutes=1)
_FAILURES_PER_WINDOW = 10
_MAX_SOURCES = 1000
_TOLD_PER_WINDOW = 100


class TokenStore(Protocol):
    """Durable tokens. Every method is one transaction with its line in the audit log; raises `StoreFailed`."""

    def load_tokens(self) -> tuple[Token, ...]: ...

    def add_token(self, token: Token, record: Record) -> None: ...

    def delete_token(self, name: str, record: Record) -> None: ...


class Access:
    """Belongs to one event loop. `root`: the secret in the data directory, which is an admin's and never expires."""

    def __init__(self, root: str, store: TokenStore, now: Callable[[], datetime]) -> None:
        if not root:
            raise ValueError("the admin API needs a token")
        self._store = store
        self.now = now
        self._root = hash_of(root)
        self._tokens = {token.sha256: token for token in store.load_tokens()}

    def operator(self, secret: str) -> Operator | None:
        """Looked up by hash, so the time that it takes tells nothing about the secret."""
        digest = hash_of(secret)
        if digest == self._root:
            return Operator(ROOT, Role.ADMIN)
        token = self._tokens.get(digest)
        if token is None or not token.is_valid(self.now()):
            return None
        return Operator(token.name, token.role, token.groups)

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(sorted(self._tokens.values(), key=lambda token: token.name))

    def create(
        self, name: str, role: Role, groups: Iterable[str], valid_for: timedelta | None, by: str
    ) -> tuple[Token, str]:
        """A new token and its secret, which is not kept. Raises `Invalid`, or `Conflict` when the name is taken."""
        if name == ROOT or any(token.name == name for token in self._tokens.values()):
            raise Conflict(f"there is a token {name!r} already: revoke it first, or use another name")
        now, secret = self.now(), new_secret()
        expires_at = now + valid_for if valid_for is not None else None
        token = Token(name, role, tuple(sorted(set(groups))), hash_of(secret), now, expires_at)
        self._store.add_token(token, Record(now, by, "token_created", name, _in_words(token)))
        self._tokens[token.sha256] = token
        return token, secret

    def revoke(self, name: str, by: str) -> Token:
        """It is refused from now on. Raises `NotFound`."""
        token = next((token for token in self._tokens.values() if token.name == name), None)
        if token is None:
            raise NotFound("token", name, tuple(token.name for token in self.tokens))
        self._store.delete_token(name, Record(self.now(), by, "token_revoked", name))
        del self._tokens[token.sha256]
        return token


class FailedLogins:
    """Counts calls without a valid token, by address. A valid token is never kept out by what others at its address do:
    256 bits cannot be guessed, so this only keeps logs and processors free.

    Who has one IPv6 address has its whole /64, so that counts as one. However many addresses there are, the audit log
    gets no more than `_TOLD_PER_WINDOW` lines of them.
    """

    def __init__(self) -> None:
        self._windows: dict[str, tuple[datetime, int]] = {}
        self._telling: tuple[datetime, int] | None = None

    def note(self, source: str, now: datetime) -> tuple[int, bool]:
        """Returns how many seconds to wait (0: not too often yet), and whether the audit log is to tell of it."""
        network = _network(source)
        began, count = self._windows.get(network, (now, 0))
        if now - began >= _WINDOW:
            began, count = now, 0
        if network not in self._windows and len(self._windows) >= _MAX_SOURCES:
            del self._windows[next(iter(self._windows))]  # the one that has been known longest
        self._windows[network] = (began, count + 1)
        wait_s = math.ceil((began + _WINDOW - now).total_seconds()) if count >= _FAILURES_PER_WINDOW else 0
        return wait_s, count == 0 and self._is_told(now)

    def _is_told(self, now: datetime) -> bool:
        began, told = self._telling or (now, 0)
        if now - began >= _WINDOW:
            began, told = now, 0
        self._telling = (began, told + 1)
        return told < _TOLD_PER_WINDOW

    def record(self, source: str, now: datetime) -> Record:
        """The line of the audit log that tells of the first failure of a window."""
        return Record(now, source, "login_refused", "admin API", "no valid token; more within a minute are not listed")


def _network(source: str) -> str:
    """What counts as one source."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:  # no network was involved
        return source
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _in_words(token: Token) -> str:
    scope = f"for {', '.join(token.groups)}" if token.groups else "for all endpoints"
    until = f"until {token.expires_at.isoformat(timespec='minutes')}" if token.expires_at else "without end"
    return f"{token.role} {scope}, {until}"
