"""What can go wrong between a caller and the control plane."""

from __future__ import annotations

from typing import Any

from router.domain.errors import CrossfadeError


class Unreachable(CrossfadeError):
    """Nobody who speaks the admin API answers, or there is no token to ask with."""


class LocalFile(CrossfadeError):
    """A file on the caller's side that cannot be read or written."""


class Refused(CrossfadeError):
    """The control plane said no. `code` is its stable word, `status` is HTTP's, `facts` is the whole error object."""

    def __init__(self, status: int, facts: dict[str, Any]) -> None:
        self.status = status
        self.code = str(facts.get("code", ""))
        self.hint = str(facts.get("hint", ""))
        self.facts = facts
        super().__init__(str(facts.get("message", f"HTTP {status}")))
