"""Tokens of an identity provider: which ones let a caller in (`auth_mode: jwt`), and whose keys must sign them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime

from router.domain.errors import CrossfadeError, Invalid

MAX_TEXT = 1000
MAX_CLAIMS = 50
MAX_CLAIM_DEPTH = 5
_URL = re.compile(r"https?://[^\s/@#?]+(/[^\s#]*)?")


class BadKeySet(CrossfadeError):
    """A set of keys (JWKS) that cannot be used. The message says why, and never quotes the set."""


@dataclass(frozen=True, slots=True, order=True)
class KeySetFile:
    """A file on the gateway's machine."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, order=True)
class KeySetUrl:
    url: str

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url) or len(self.url) > MAX_TEXT:
            raise Invalid(
                "jwt.jwks.url",
                "is not a URL of a key set",
                "use https://…, without a user or a password: the jwks_uri of the provider's discovery document",
            )

    def __str__(self) -> str:
        return self.url


KeySource = KeySetFile | KeySetUrl


@dataclass(frozen=True, slots=True)
class KeySet:
    """Public keys. `content`: a JWKS (RFC 7517) as JSON, the same text for the same keys."""

    content: str

    @property
    def ids(self) -> tuple[str, ...]:
        """What tokens call them, in the set's order; empty for one without a name."""
        return tuple(key.get("kid", "") for key in json.loads(self.content)["keys"])


@dataclass(frozen=True, slots=True)
class Claim:
    """What a token must say: at `path`, a name within a name, stands one of `values`, or a list with one of them."""

    path: tuple[str, ...]
    values: tuple[str | bool, ...]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """A token must be of this issuer, for one of these audiences (any, when none is named), and say all `claims`.

    `clock_skew_s`: by how much the clocks of who issues and who checks may differ. Envoy knows no zero.
    """

    issuer: str
    keys_from: KeySource
    audiences: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    clock_skew_s: int = 60

    def __post_init__(self) -> None:
        if not self.audiences and not self.claims:
            raise Invalid(
                "jwt",
                "would let in whoever has a token of the issuer, for whatever it was made",
                "say in audiences whom tokens must be for, or in claims what they must say",
            )
        if len(self.claims) > MAX_CLAIMS:
            raise Invalid("jwt.claims", f"has {len(self.claims)} claims", f"use at most {MAX_CLAIMS}")
        texts = [("jwt.issuer", (self.issuer,)), ("jwt.audiences", self.audiences)]
        texts += [("jwt.claims", (*claim.path, *map(str, claim.values))) for claim in self.claims]
        for key, values in texts:
            if not all(text and text.isprintable() for text in values):
                raise Invalid(key, "has something empty or unprintable in it", "use plain text")


@dataclass(frozen=True, slots=True)
class KeySetStatus:
    """`keys` None: none was ever had, so nobody gets in. `fault`: why the last look brought nothing; empty: it did."""

    source: KeySource
    endpoints: tuple[str, ...]
    keys: KeySet | None
    taken_at: datetime | None
    fault: str

    @property
    def warning(self) -> str:
        """In words for an operator; empty while there is nothing to do."""
        if self.keys is None:
            return self.fault and f"{self.fault}; until it is there, nobody gets in"
        return self.fault and f"{self.fault}; the keys that were known before stay in force"
