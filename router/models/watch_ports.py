"""What watching needs from the rest of the control plane, and what it offers to the admin API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from router.domain.deployment import Deployment
from router.domain.endpoint import EndpointState
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.watching import Consent, News, Terms, Watched
from router.models.ports import Resolution


class Spoilt(ModelUnavailable):
    """What came is no good, or did not come whole. Another try may help, but not for ever."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is to be fetched and checked for a place in `state`. `deployment`: as it would run there."""

    resolution: Resolution
    deployment: Deployment
    state: EndpointState
    may_change_signature: bool = False


class Supply(Protocol):
    """Sources, cache and admission behind one door."""

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        """Raises `ModelUnavailable`."""

    async def resolve(self, ref: ModelRef) -> Resolution:
        """Raises `ModelUnavailable`."""

    async def prepare(self, wanted: Wanted) -> ResolvedModel:
        """The model, here, verified and admitted. Raises `AdmissionRefused`, `Spoilt`, or any other `ModelUnavailable`
        when it is not the model's fault."""

    async def fetched(self, ref: ModelRef, sha256: str) -> ResolvedModel:
        """A model that was prepared. Raises `ModelUnavailable` when it is not here any more."""

    def revision_of(self, ref: ModelRef, sha256: str) -> str:
        """Under which revision this model was fetched by this reference; "" when nobody remembers."""


class WatchStore(Protocol):
    """Durable. Raises `StoreFailed`."""

    def load_watched(self) -> tuple[Watched, ...]: ...

    def save_watched(self, watched: Watched) -> None:
        """That of an endpoint that was deleted meanwhile is not written: it went with it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """News of an endpoint's reference, and the URLs that are to be told."""

    endpoint: str
    urls: tuple[str, ...]
    news: News


class Hears(Protocol):
    def hear(self, notice: Notice) -> None:
        """Must return at once; what cannot be delivered is retried for a while, then said in the event log."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How it is with one endpoint's reference at `now`. `waits_for`: why a model that is ready has no traffic yet."""

    watched: Watched
    terms: Terms
    now: datetime
    waits_for: str

    @property
    def staleness_s(self) -> float | None:
        """Since the source last said anything; None when it never has."""
        answered_at = self.watched.answered_at
        return None if answered_at is None else max(0.0, (self.now - answered_at).total_seconds())


class Watching(Protocol):
    """Every reference that is watched."""

    def standings(self) -> tuple[Standing, ...]:
        """Sorted by endpoint."""

    def standing(self, endpoint: str) -> Standing:
        """Raises `NotFound` for an endpoint that does not exist, `Conflict` for one that is not watched (yet)."""

    async def accept(self, endpoint: str, consent: Consent) -> Standing:
        """Returns when it is durable. Raises as `standing` does, and `Conflict` when there is nothing to accept."""
