"""Stand-ins for parts that a gateway may do without. They do nothing, and say so."""

from __future__ import annotations

from router.rollout_ports import Difference, Pairs


class NothingCompared:
    """Implements `Comparer`: no answer is sampled."""

    def compare(self, endpoint: str, stable: str, candidate: str) -> None:
        return

    def stop(self, endpoint: str) -> None:
        return

    def pairs(self, endpoint: str) -> Pairs:
        return Pairs()

    def differences(self, endpoint: str, limit: int) -> tuple[Difference, ...]:
        return ()
