"""How one internal CA follows another while nobody loses a connection. Pure.

Replicas hear whom to trust with each certificate of their own, of which none is older than `CERTIFICATE_LIVES`. So a
new CA is trusted from its first moment, beside the old one; it signs when every replica has heard of it; and the old
one is dropped when nothing that it signed is good any more. Who stands where follows from when each was made, so it
holds whoever stopped and started meanwhile.
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
class Line:
    """CAs by when they were made, oldest first, as positions. `first`: the first that is still trusted, as are all
    that follow; `signs`: one of them."""

    first: int
    signs: int

    @classmethod
    def of(cls, made: Sequence[datetime], now: datetime) -> Line:
        def newest_after(age: timedelta) -> int:
            return max((index for index, at in enumerate(made) if now - at >= age), default=0)

        return cls(newest_after(STANDS_ALONE_AFTER), newest_after(SIGNS_AFTER))


def is_due(not_after: datetime, now: datetime) -> bool:
    """Whether the newest CA needs a successor."""
    return not_after - now < _FOLLOWED_BEFORE_END
