"""What of a deployment that Envoy itself asks Tritons for may change while it has traffic.

Replicas of ours say what they are, so the old ones answer until new ones are ready. Tritons do not: those that were
found for the old spec would be asked for what the new one says from one moment to the next.
"""

from __future__ import annotations

from router.domain.deployment import DeployedModel
from router.domain.triton import RunningTriton


def why_not_in_place(old: DeployedModel, new: DeployedModel) -> str:
    """Why live requests could not be answered meanwhile; empty when they can: by other servers of one model, say."""
    if old.direct is None or (new.direct is not None and _asked_for(old.direct) == _asked_for(new.direct)):
        return ""
    return (
        f"{old.spec.name!r} has traffic, and its Tritons would at once be asked for what this says, ready for it or not"
    )


def _asked_for(triton: RunningTriton) -> tuple[object, ...]:
    return triton.model, triton.version, triton.tls, triton.has_sequences, triton.restricted
