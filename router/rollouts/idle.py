"""Stand-ins for parts that a gateway may do without. They do nothing, and say so."""

from __future__ import annotations

from router.domain.evidence import Measurement
from router.domain.policy import CustomMetric
from router.domain.rollout import Rollout
from router.rollout_ports import Difference, Entry, Pairs


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


class NothingMeasured:
    """Implements `Measures`."""

    async def measure(self, rollout: Rollout, metric: CustomMetric) -> Measurement:
        return Measurement(metric.name, None, "this gateway measures no metrics of its users")


class NobodyListens:
    """Implements `Listeners`."""

    def tell(self, entry: Entry) -> None:
        return
