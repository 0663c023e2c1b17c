"""Sticky: what makes a client the same client, so that it stays on its deployment while traffic moves one way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from router.domain.errors import Invalid

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")  # every such word is a header's and a cookie's name (RFC 9110 §5.6.2)


class StickyBy(StrEnum):
    HEADER = "header"
    COOKIE = "cookie"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Sticky:
    """Requests with the same header, the same cookie, or from the same address go to the same deployment.

    `name`: of the header or cookie; empty for `CLIENT`. Requests that lack it are drawn by chance.

    A client moves only from a deployment that shrinks to one that grows, as long as those two share the traffic between
    them (a rollout's shape): who was on green at 10% is there at 25%.
    """

    by: StickyBy
    name: str = ""

    def __post_init__(self) -> None:
        if self.by is StickyBy.CLIENT:
            if self.name:
                raise Invalid("sticky.client", "has no name", "write client: true")
        elif not _TOKEN.fullmatch(self.name):
            message = f"{self.name!r} is not the name of a {self.by}"
            raise Invalid(f"sticky.{self.by}", message, "use 1 to 64 letters, digits, '_' and '-'")
