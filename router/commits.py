"""Commits: how a decided change becomes true. Durable first, then published, then told.

Changes are serialised by one lock, from the look at the present state to its publication, so none is decided on a state
that is no longer there. Both the operators' changes and those of rollouts go this way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from router.admin_ports import Changes
from router.desired import Desired
from router.domain.audit import Record
from router.domain.endpoint import EndpointState
from router.events import EventLog
from router.plan import Action, Change, Plan
from router.ports import Store

ITSELF = "crossfade"  # who asks when nobody did


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, or with a dry run would be. `revisions`: endpoint → its revision afterwards (0: it is gone).

    `notes`: what is not as asked, and why, and what to beware of, in words for the operator.
    """

    changes: tuple[Change, ...]
    revisions: Mapping[str, int]
    notes: tuple[str, ...] = ()


class Commits:
    """Belongs to one event loop."""

    def __init__(self, desired: Desired, store: Store, changes: Changes, events: EventLog) -> None:
        self.desired = desired
        self.events = events
        self._store = store
        self._changes = changes
        self._lock = asyncio.Lock()
        self._under_way: set[asyncio.Task[Done]] = set()

    async def commit(self, decide: Callable[[], Plan], names: Iterable[str], by: str = ITSELF) -> Done:
        """Run to the end even when the caller is cancelled: a change must not be durable and unpublished.

        `by`: who asked for it.
        """
        task = asyncio.create_task(self._commit(decide, names, by))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def commit_one(self, name: str, decide: Callable[[EndpointState], Plan], by: str = ITSELF) -> Done:
        """Raises `NotFound`, and what `decide` raises."""
        return await self.commit(lambda: decide(self.desired.state(name)), {name}, by)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is changed meanwhile."""
        async with self._lock:
            yield

    def done(self, plan: Plan, names: Iterable[str]) -> Done:
        """Before a dry run's plan is published, an endpoint that it would create is at revision 0."""
        states = self.desired.states
        revisions = {name: states[name].revision if name in states else 0 for name in sorted(names)}
        return Done(plan.changes, revisions)

    async def _commit(self, decide: Callable[[], Plan], names: Iterable[str], by: str) -> Done:
        async with self._lock:
            plan = decide()
            if not plan.is_empty:
                gateway = plan.gateway.spec if plan.gateway else None
                records = self._records(plan, by)
                await asyncio.to_thread(self._store.save, plan.changed, plan.deleted, records, gateway)
                self.desired.publish(plan.changed, plan.deleted)
                if plan.gateway:
                    self.desired.publish_gateway(plan.gateway.spec, plan.gateway.offers)
                self._tell(plan)
            return self.done(plan, names)

    def _records(self, plan: Plan, by: str) -> list[Record]:
        now = self.events.now()
        return [Record(now, by, _kind(change), _subject(change), in_words(change)) for change in _changes(plan)]

    def _tell(self, plan: Plan) -> None:
        for change in _changes(plan):
            # Listeners name endpoints, which not everybody who reads events may know of. The audit log has it all.
            told = change if change.endpoint else replace(change, fields=())
            self.events.publish(_kind(change), in_words(told), endpoint=change.endpoint, deployment=change.deployment)
        if plan.gateway:
            self._changes.gateway_changed()
        for name in (*(state.endpoint.name for state in plan.changed), *plan.deleted):
            self._changes.endpoint_changed(name)


def _changes(plan: Plan) -> list[Change]:
    return [change for change in plan.changes if change.action is not Action.UNCHANGED]


def _kind(change: Change) -> str:
    return f"{change.kind}_{change.action}"


def _subject(change: Change) -> str:
    return f"{change.endpoint}/{change.deployment}".rstrip("/") or "gateway"


def in_words(change: Change) -> str:
    """One line for an operator: "deployment filetype/green changed: instance_count 1 → 2"."""
    what = f"{change.kind} {change.endpoint}/{change.deployment}".rstrip(" /")
    fields = ", ".join(f"{field.key} {_shown(field.old)} → {_shown(field.new)}" for field in change.fields)
    return f"{what} {change.action}" + (f": {fields}" if fields else "")


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case dict() if not any(isinstance(item, dict | list | bool) for item in value.values()):
            return " ".join(f"{name}={item}" for name, item in value.items()) or "none"
        case dict() | list() | bool():
            return json.dumps(value, ensure_ascii=False)
    return str(value)
