"""How one internal CA follows another while nobody loses a connection. Pure.

Replicas hear whom to trust with each certificate of their own, of which none is older than `CERTIFICATE_LIVES`. So a
new CA is trusted from its first moment, beside the old one; it signs when every replica has heard of it; and the old
one is dropped when nothing that it signed is good any more. Who stands where follows from when each was made, so it
holds whoever stopped and started meanwhile.

Where the old one ends before that (the gateway was off for months), nothing that it signs outlives it. Whoever has such
a certificate asks again at half of what is left, so all have heard of the new CA when half of the old one's last time
is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from router.domain.replica_tls import CERTIFICATE_LIVES

_CLOCKS_DIFFER = timedelta(hours=1)

SIGNS_AFTER = CERTIFICATE_LIVES + _CLOCKS_DIFFER
STANDS_ALONE_AFTER = 2 * SIGNS_AFTER
# Long before `EXPIRES_SOON`, so that whoever is warned knows that this has failed.
_FOLLOWED_BEFORE_END = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Life:
    """When a CA was made, and when it ends."""

    made: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """CAs, oldest first, as positions. `first`: the first that is still trusted, as are all that follow; `signs`: one
    of them."""

    first: int
    signs: int

    @classmethod
    def of(cls, lives: Sequence[Life], now: datetime) -> Line:
        """`lives`: one at least, oldest first."""
        followers = range(1, len(lives))
        alone = [index for index in followers if now - lives[index].made >= STANDS_ALONE_AFTER]
        signing = [index for index in followers if now >= signs_from(lives[index].made, lives[index - 1].ends)]
        first = max(alone, default=0)
        return cls(first, max(signing, default=first))


def signs_from(made: datetime, ends_before: datetime) -> datetime:
    """From when on a CA signs that follows one that ends at `ends_before`."""
    last_time = max(ends_before - made, timedelta())
    return made + min(SIGNS_AFTER, last_time * 3 / 4)  # half, and as much again for whoever looks late


def lives_for(lives: timedelta, ends: datetime, now: datetime) -> timedelta:
    """For how long what is signed now is good, which shall live for `lives`, when its CA ends at `ends`."""
    return max(min(lives, ends - now), timedelta())


def is_due(not_after: datetime, now: datetime) -> bool:
    """Whether the newest CA needs a successor."""
    return not_after - now < _FOLLOWED_BEFORE_END
