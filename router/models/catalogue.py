"""The models that are here: what they are, where they came from, who uses them, which of them may go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from router.desired import Desired
from router.domain.access import Operator
from router.domain.deployment import DeployedModel
from router.domain.errors import Conflict, NotFound
from router.domain.model_ref import ModelRef
from router.domain.provenance import Approved, History, Pulled, latest_digests
from router.events import EventLog
from router.models.cache_ports import Collected, Corrupt, Kept
from router.models.freshness import Asked
from router.models.ports import Resolution
from router.models.pulling import Pulling
from router.models.pulls import Pulls

_PREFIX = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """`origins`: oldest first. `users`: endpoint and deployment."""

    kept: Kept
    origins: tuple[Pulled, ...]
    users: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a deployment's model came from, and who approved it. None: it is not known."""

    origin: Pulled | None
    approval: Approved | None


class Catalogue:
    """The application service behind the admin API's models. Belongs to one event loop."""

    def __init__(self, pulling: Pulling, pulls: Pulls, desired: Desired, events: EventLog) -> None:
        self.pulls = pulls
        self._pulling = pulling
        self._desired = desired
        self._events = events

    async def resolve(self, ref: ModelRef) -> tuple[Resolution, Kept | None]:
        """What the reference names now, and the model when it is here. Raises `ModelUnavailable`."""
        resolution = await self._pulling.look_up(ref)
        return resolution, await self._pulling.cache.known(resolution)

    async def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entry(kept) for kept in await self._pulling.cache.entries())

    async def find(self, digest: str) -> Entry:
        """`digest` may be its beginning, of 6 digits or more. Raises `NotFound`, `Conflict` when several begin so."""
        entries = await self.entries()
        found = [entry for entry in entries if entry.kept.tree.digest.startswith(digest)]
        if len(found) > 1:
            raise Conflict(f"{len(found)} models begin with {digest}: write more of the digest")
        if not found or not _PREFIX.fullmatch(digest):
            raise NotFound("model", digest, tuple(entry.kept.tree.digest[:12] for entry in entries))
        return found[0]

    async def verify(self, digest: str) -> None:
        """Read the model again. Raises `NotFound`, or `Corrupt` when it was damaged: it has been put aside."""
        try:
            if await self._pulling.cache.verify(digest) is None:
                raise NotFound("model", digest)
        except Corrupt as error:
            self._events.publish("model_damaged", str(error))
            raise

    async def collect(self, keep_last: int, unused_for_s: float) -> Collected:
        """Remove what nobody needs: no deployment serves it or would go back to it, and it is none of the last
        `keep_last` of its reference. Raises `ModelUnavailable`."""
        collected = await self._pulling.cache.collect(self._roots(keep_last), unused_for_s)
        if collected.digests:
            count = len(collected.digests)
            self._events.publish("models_collected", f"{count} model{'s' if count > 1 else ''} removed from the cache")
        return collected

    def lineage(self, deployed: DeployedModel) -> Lineage:
        if deployed.spec.is_elsewhere:
            return Lineage(None, None)
        history, spec, digest = self._history, deployed.spec, deployed.content.sha256
        origin = history.origin(digest, str(spec.reference.whole)) or history.origin(digest)
        return Lineage(origin, history.approval(spec.endpoint, spec.name, digest))

    def asked(self, operator: Operator | None = None) -> tuple[Asked, ...]:
        """How well the sources of the deployments' references answer, sorted; those that need not be asked are left
        out, and those of endpoints that the `operator` does not see."""
        present = self._desired.states.values()
        states = [state for state in present if operator is None or operator.sees(state.endpoint.group)]
        specs = [item.spec for state in states for item in state.deployments.values() if not item.spec.is_elsewhere]
        refs = sorted({str(spec.reference.whole) for spec in specs})
        return tuple(self._pulling.freshness.of(ref) for ref in refs if self._history.named_for_good(ref) is None)

    @property
    def _history(self) -> History:
        return self._pulling.records.history

    def _roots(self, keep_last: int) -> frozenset[str]:
        live = {deployed.content.sha256 for deployed in self._deployed()}
        last_good = {
            served.digest
            for deployed in self._deployed()
            for served in self._history.served(deployed.spec.endpoint, deployed.spec.name)[:2]
        }
        pulls = [record for record in self._history.records if isinstance(record, Pulled)]
        return frozenset(live | last_good | latest_digests(pulls, keep_last))

    def _deployed(self) -> Sequence[DeployedModel]:
        states = self._desired.states.values()
        return [item for state in states for item in state.deployments.values() if not item.spec.is_elsewhere]

    def _entry(self, kept: Kept) -> Entry:
        users = sorted(
            (deployed.spec.endpoint, deployed.spec.name)
            for deployed in self._deployed()
            if deployed.content.sha256 == kept.tree.digest
        )
        return Entry(kept, self._history.pulls_of(kept.tree.digest), tuple(users))
