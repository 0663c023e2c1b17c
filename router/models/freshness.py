"""How well the sources of the models can be asked: staleness is something to show, never a reason to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """`answered_at`: when its source last said what the reference means; None: not since the control plane started.

    `trouble`: why the last try failed, and since when; empty when it did not.
    """

    ref: str
    answered_at: datetime | None = None
    trouble: str = ""
    trouble_since: datetime | None = None


class Freshness:
    """Belongs to one event loop. By reference, as written."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}

    def answered(self, ref: str, at: datetime) -> None:
        self._asked[ref] = Asked(ref, at)

    def failed(self, ref: str, trouble: str, at: datetime) -> None:
        before = self._asked.get(ref, Asked(ref))
        self._asked[ref] = replace(before, trouble=trouble, trouble_since=before.trouble_since or at)

    def of(self, ref: str) -> Asked:
        return self._asked.get(ref, Asked(ref))
