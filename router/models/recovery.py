"""Models in the cache that are not what they were: fetched again, or else the last one that was good serves instead.

Looked at: every deployment's model when the control plane starts, and that of a deployment that fails. A boot needs no
source: what is recorded and intact is served. Replicas that run hold their model in memory, so nothing is changed under
them: only a deployment without any replica that is ready goes back to another model. A rollout's candidate never does:
its rollout decides what becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from router.admin_ports import DeploymentCondition, Observer
from router.commits import Commits
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict, CrossfadeError, Invalid, ModelUnavailable
from router.domain.model_ref import ResolvedModel
from router.domain.provenance import Served
from router.models.cache_ports import Corrupt
from router.models.pulling import Pulling
from router.plan import Action, Change, FieldChange, Plan

log = logging.getLogger(__name__)

RETRY_S = 60.0  # how often a source is asked for a damaged model again
_LOOK_EVERY_S = 10.0  # also when nothing is told: what changes while somebody looks is not

_Key = tuple[str, str, str]  # endpoint, deployment, digest


class Recovery:
    """Belongs to one event loop. `now` returns aware UTC."""

    def __init__(self, commits: Commits, observer: Observer, pulling: Pulling, now: Callable[[], datetime]) -> None:
        self._commits = commits
        self._observer = observer
        self._pulling = pulling
        self._now = now
        self._missing: dict[_Key, float] = {}  # when its source is asked next, by the loop's clock
        self._examined: set[tuple[str, str, str]] = set()  # failed generations

    async def run(self) -> None:
        """Without end. No trouble here may end the gateway."""
        await self.examine_all()
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("looking after the models failed; it goes on")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._observer.status_changed()

    async def examine_all(self) -> None:
        """Read every model that a deployment has."""
        for deployed in self._cached():
            await self._examine(deployed)

    async def look(self) -> None:
        """Once: note who serves, examine who fails, do something about what is missing."""
        for deployed in self._cached():
            condition = self._condition(deployed)
            generation = (deployed.spec.endpoint, deployed.spec.name, deployed.generation)
            if condition is DeploymentCondition.READY:
                await self._note_served(deployed)
                self._examined.discard(generation)
            if condition is DeploymentCondition.FAILED and generation not in self._examined:
                self._examined.add(generation)
                await self._examine(deployed)
            if _key(deployed) in self._missing:
                await self._recover(deployed)
        present = {_key(deployed) for deployed in self._cached()}
        self._missing = {key: at_s for key, at_s in self._missing.items() if key in present}

    async def _examine(self, deployed: DeployedModel) -> None:
        """Read the whole model, and remember when it is damaged or gone."""
        try:
            is_here = await self._pulling.cache.verify(deployed.content.sha256) is not None
        except Corrupt as error:
            is_here = False
            self._tell("model_damaged", deployed, str(error))
        except ModelUnavailable as error:  # the disk itself
            log.warning("a model could not be verified: %s", error)
            return
        if not is_here:
            self._missing.setdefault(_key(deployed), 0.0)

    async def _recover(self, deployed: DeployedModel) -> None:
        clock_s = asyncio.get_running_loop().time()
        if clock_s >= self._missing[_key(deployed)]:
            if await self._is_fetched_again(deployed):
                del self._missing[_key(deployed)]
                return
            self._missing[_key(deployed)] = clock_s + RETRY_S
        has_replicas = self._status_ready(deployed) > 0
        is_loading = self._condition(deployed) is DeploymentCondition.LOADING
        if not has_replicas and not is_loading and not self._is_candidate(deployed):
            await self._fall_back(deployed)

    async def _is_fetched_again(self, deployed: DeployedModel) -> bool:
        digest = deployed.content.sha256
        if await self._pulling.cache.find(digest):
            return True  # by somebody else meanwhile
        origin = self._pulling.records.history.origin(digest, str(deployed.spec.reference.whole))
        if origin is None:
            return False
        try:
            await self._pulling.pull_again(origin, "crossfade")
        except CrossfadeError as error:
            self._tell("model_missing", deployed, f"model {digest[:12]} cannot be fetched again: {error}")
            return False
        self._tell("model_restored", deployed, f"model {digest[:12]} was fetched again")
        return True

    async def _fall_back(self, deployed: DeployedModel) -> None:
        spec = deployed.spec
        for served in self._pulling.records.history.served(spec.endpoint, spec.name):
            if served.digest == deployed.content.sha256 or not await self._is_intact(served):
                continue
            good = ResolvedModel(served.path, served.digest)
            try:
                await self._commits.commit_one(spec.endpoint, partial(_back_to, deployed, good))
            except CrossfadeError as error:
                log.warning("a deployment did not go back to its last good model: %s", error)
                return
            lost = deployed.content.short_digest
            words = f"serves its last good model {good.short_digest}: {lost} is damaged, and its source has no other"
            self._tell("model_fell_back", deployed, words)
            return

    async def _is_intact(self, served: Served) -> bool:
        try:
            return await self._pulling.cache.verify(served.digest) is not None
        except (ModelUnavailable, Invalid):
            return False

    async def _note_served(self, deployed: DeployedModel) -> None:
        spec, model = deployed.spec, deployed.content
        latest = next(iter(self._pulling.records.history.served(spec.endpoint, spec.name)), None)
        if latest is None or (latest.digest, latest.path) != (model.sha256, model.path):
            await self._pulling.records.append(Served(self._now(), spec.endpoint, spec.name, model.sha256, model.path))

    def _cached(self) -> list[DeployedModel]:
        states = self._commits.desired.states.values()
        return [item for state in states for item in state.deployments.values() if _is_cached(item)]

    def _condition(self, deployed: DeployedModel) -> DeploymentCondition | None:
        status = self._observer.endpoint_status(deployed.spec.endpoint)
        return next((item.condition for item in status.deployments if item.name == deployed.spec.name), None)

    def _status_ready(self, deployed: DeployedModel) -> int:
        status = self._observer.endpoint_status(deployed.spec.endpoint)
        return next((item.replicas_ready for item in status.deployments if item.name == deployed.spec.name), 0)

    def _is_candidate(self, deployed: DeployedModel) -> bool:
        rollout = self._commits.desired.rollout(deployed.spec.endpoint)
        return rollout is not None and not rollout.phase.is_decided and rollout.candidate == deployed.spec.name

    def _tell(self, kind: str, deployed: DeployedModel, words: str) -> None:
        spec = deployed.spec
        message = f"deployment {spec.endpoint}/{spec.name}: {words}"
        self._commits.events.publish(kind, message, endpoint=spec.endpoint, deployment=spec.name)


def _is_cached(deployed: DeployedModel) -> bool:
    return not deployed.spec.is_elsewhere and bool(deployed.content.folder)


def _key(deployed: DeployedModel) -> _Key:
    return deployed.spec.endpoint, deployed.spec.name, deployed.content.sha256


def _back_to(deployed: DeployedModel, good: ResolvedModel, state: EndpointState) -> Plan:
    """Raises `Conflict` when the deployment is another one by now."""
    name = deployed.spec.name
    if state.deployments.get(name) != deployed:
        raise Conflict(f"deployment {name!r} was changed meanwhile")
    changed = state.with_deployment(DeployedModel(deployed.spec, good))
    fields = (FieldChange("model_sha256", deployed.content.sha256, good.sha256),)
    change = Change(Action.CHANGED, state.endpoint.name, name, fields)
    return Plan((replace(changed, revision=state.revision + 1),), (), (change,))
