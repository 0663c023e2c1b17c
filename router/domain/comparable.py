"""Whether the answers of two deployments can be compared: replicas of ours record them, and others do not."""

from __future__ import annotations

from collections.abc import Iterable

from router.domain.deployment import Deployment
from router.domain.strategy import Analyze, Strategy

COMPARABLE_HINT = "set min_pairs: 0, or put it behind replicas with triton: {mode: bridge}"


def why_not_compared(strategy: Strategy, sides: Iterable[Deployment]) -> str:
    """Why a step could wait for compared answers for ever; empty when none has to."""
    if not any(isinstance(step, Analyze) and step.min_pairs for step in strategy.steps):
        return ""
    for deployment in sides:
        if deployment.direct is not None or deployment.managed is not None:
            return (
                f"a step asks for compared answers (min_pairs), and nobody records those of {deployment.name!r}, "
                "whose Triton is asked by Envoy itself"
            )
    return ""
