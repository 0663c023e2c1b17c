"""Refusals of listeners by one Envoy: when it is asked again, and which of them are news. Pure.

Whether a listener can have its address is not in its configuration alone: an address may come, a port become free. So
what was refused is tried again, less and less often, until it is taken or something else is wanted.
"""

from __future__ import annotations

_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


class Refusals:
    def __init__(self) -> None:
        self._told: set[str] = set()
        self._pause_s = _FIRST_PAUSE_S

    def is_news(self, reason: str) -> bool:
        """Whether it has not said this since the last `forget`."""
        if reason in self._told:
            return False
        self._told.add(reason)
        return True

    def next_pause_s(self) -> float:
        """How long to wait before it is asked again; each time longer."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return pause_s

    def forget(self) -> None:
        """It has taken everything, or something else is wanted of it."""
        self._told.clear()
        self._pause_s = _FIRST_PAUSE_S
