"""Streams that have begun: what their callers showed when they were let in, and whether it would let them in today."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from router.domain.callers import Access, Anyone, CertificateHolders, KeyHolders, TokenHolders
from router.domain.listening import Clients
from router.domain.routing import Routing
from router.domain.tokens import Claim, TokenRules

# A token that expires later than this says as much as one that never does.
_END_OF_TIME = datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an endpoint lets somebody in: by what is shown, and by the address."""

    access: Access = field(default_factory=Anyone)
    clients: Clients = field(default_factory=Clients)

    @classmethod
    def of(cls, routing: Routing) -> Terms:
        return cls(routing.access, routing.clients)

    @property
    def are_none(self) -> bool:
        return isinstance(self.access, Anyone) and self.clients.is_everybody


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A client's certificate, verified by the handshake. `names`: its URIs and DNS names; `der`: all of it."""

    serial: int
    names: frozenset[str]
    not_after: datetime
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShownToken:
    """What a verified token says. `signers`: the keys of the set, as `keys_in` has them, one of which signed it."""

    claims: Mapping[str, object] = field(repr=False)
    signers: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller showed. `key`: the fingerprint of the key; empty: none was asked for."""

    address: str
    key: str = ""
    certificate: PeerCertificate | None = None
    token: ShownToken | None = None


def are_met(terms: Terms, shown: Shown) -> bool:
    """Whether somebody who shows this is let in. Signatures and chains, which were verified once, are not verified."""
    return _opens(terms.access, shown) and terms.clients.take(shown.address)


def runs_out_at(terms: Terms, shown: Shown) -> datetime | None:
    """When what let the caller in is valid no more by itself; None: never."""
    match terms.access:
        case CertificateHolders() if shown.certificate is not None:
            return shown.certificate.not_after
        case TokenHolders(rules) if shown.token is not None:
            return _expiry(shown.token.claims, rules.clock_skew_s)
        case _:
            return None


@lru_cache(maxsize=16)  # it is asked for every stream of an endpoint
def keys_in(key_set: str) -> frozenset[str]:
    """Each key of a JWKS, in one spelling."""
    return frozenset(map(_spelt, _keys(key_set)))


def possible_signers(key_set: str, key_id: str) -> frozenset[str]:
    """The keys that may have signed a token that calls its key `key_id` (empty: it does not say): those that are called
    so, and those without a name."""
    return frozenset(_spelt(key) for key in _keys(key_set) if not key_id or key.get("kid", key_id) == key_id)


def _opens(access: Access, shown: Shown) -> bool:
    match access:
        case Anyone():
            return True
        case KeyHolders(keys):
            return bool(shown.key) and any(sha256.startswith(shown.key) for _, sha256 in keys)
        case CertificateHolders(names):
            return shown.certificate is not None and not shown.certificate.names.isdisjoint(names)
        case TokenHolders(rules, key_set):
            return shown.token is not None and _follows(rules, key_set, shown.token)


def _follows(rules: TokenRules, key_set: str, token: ShownToken) -> bool:
    if not token.signers or not token.signers <= keys_in(key_set):
        return False
    audiences = {_bare(audience) for audience in _listed(token.claims.get("aud"))}
    if rules.audiences and audiences.isdisjoint(map(_bare, rules.audiences)):
        return False
    return all(_says(token.claims, claim) for claim in (Claim(("iss",), (rules.issuer,)), *rules.claims))


def _says(claims: Mapping[str, object], claim: Claim) -> bool:
    found: object = claims
    for name in claim.path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return any(type(one) is type(value) and one == value for one in _listed(found) for value in claim.values)


def _listed(found: object) -> Iterable[object]:
    return found if isinstance(found, list) else [found]


def _bare(audience: object) -> str:
    """As Envoy compares audiences: https://app/ is the same as app."""
    text = str(audience)
    for scheme in ("http://", "https://"):
        text = text.removeprefix(scheme)
    return text.removesuffix("/")


def _expiry(claims: Mapping[str, object], clock_skew_s: int) -> datetime | None:
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or expires >= _END_OF_TIME.timestamp():
        return None
    return datetime.fromtimestamp(expires, UTC) + timedelta(seconds=clock_skew_s)


def _keys(key_set: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(key_set)["keys"] if key_set else []
    return found


def _spelt(key: Mapping[str, object]) -> str:
    return json.dumps(key, sort_keys=True)
