"""Who may serve which model: what admission says, against what answers now, recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from router.domain import plain
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.provenance import Approved
from router.models.ports import Admission, Candidate
from router.models.pulling import Pulling
from serving.signature import Signature


class GatedModels:
    """Implements `router.ports.ModelSource`: pulling, and the gate before traffic."""

    def __init__(self, pulling: Pulling, admission: Admission | None, now: Callable[[], datetime]) -> None:
        """`admission` None: every model that is here may serve."""
        self._pulling = pulling
        self._admission = admission
        self._now = now

    async def resolve(self, ref: ModelRef, by: str) -> ResolvedModel:
        return await self._pulling.resolve(ref, by)

    async def approve(
        self, deployed: DeployedModel, state: EndpointState | None, *, is_signature_change_allowed: bool
    ) -> None:
        """Raises `ModelUnavailable`, `StoreFailed`."""
        if self._admission is None or deployed.spec.is_elsewhere:
            return
        spec, digest = deployed.spec, deployed.content.sha256
        kept = await self._pulling.cache.find(digest)
        if kept is None:
            raise ModelUnavailable(f"{spec.model}: its model {digest[:12]} is not in the cache any more: apply again")
        origin = self._pulling.records.history.origin(digest, str(spec.reference.whole))
        admitted = await self._admission.admit(
            Candidate(
                kept.folder,
                kept.tree,
                origin.pinned if origin else str(spec.model),
                spec,
                self._live_signature(state),
                is_signature_change_allowed,
                spec.golden_requests,
            )
        )
        await self._pulling.records.append(
            Approved(
                self._now(),
                spec.endpoint,
                spec.name,
                digest,
                admitted.checks,
                admitted.signer,
                json.dumps(plain.to_plain(admitted.signature)),
            )
        )

    def _live_signature(self, state: EndpointState | None) -> Signature | None:
        """Of the deployment with the most traffic, as it was found when that was approved."""
        shares = sorted(state.endpoint.traffic.shares, key=lambda share: -share[1]) if state else []
        for name, percent in shares:
            assert state is not None
            live = state.deployment(name)
            approval = self._pulling.records.history.approval(live.spec.endpoint, name, live.model_sha256)
            if percent and approval and approval.signature:
                return plain.from_plain(Signature, json.loads(approval.signature))
        return None
