"""Watched references in memory: the real domain decides, and the test says what the source said."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from router.desired import Desired
from router.domain.errors import Conflict
from router.domain.watch_transitions import advance, begin, waits_for
from router.domain.watching import Accepted, Consent, Event, InService, Known, Terms, Watched
from router.models.watch_ports import Standing


@dataclass
class MemoryWatching:
    """Implements `Watching`. Nothing is looked at until `happen` says what comes of it."""

    desired: Desired
    now: datetime
    _watched: dict[str, Watched] = field(default_factory=dict)

    def happen(self, endpoint: str, *events: Event) -> None:
        for event in events:
            self._watched[endpoint] = advance(self._begun(endpoint), event, self._terms(endpoint), self.now).watched

    def standings(self) -> tuple[Standing, ...]:
        states = self.desired.states
        names = (name for name in sorted(states) if states[name].endpoint.watch is not None)
        return tuple(self.standing(name) for name in names)

    def standing(self, endpoint: str) -> Standing:
        watched, terms = self._begun(endpoint), self._terms(endpoint)
        return Standing(watched, terms, self.now, waits_for(watched, terms, self.now, is_free=True))

    async def accept(self, endpoint: str, consent: Consent) -> Standing:
        self.happen(endpoint, Accepted(consent))
        return self.standing(endpoint)

    def _begun(self, endpoint: str) -> Watched:
        terms = self._terms(endpoint)
        if endpoint not in self._watched:
            live = next(iter(self.desired.state(endpoint).deployments.values()))
            seen = InService(str(live.spec.model), Known("r1", live.model.sha256, "models:/fraud/1", "1"))
            self._watched[endpoint] = begin(endpoint, seen, terms, self.now)
        return self._watched[endpoint]

    def _terms(self, endpoint: str) -> Terms:
        watch = self.desired.state(endpoint).endpoint.watch
        if watch is None:
            raise Conflict(f"endpoint {endpoint!r} is not watched")
        return Terms(watch, 0.5)
