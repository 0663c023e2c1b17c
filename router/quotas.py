"""What the groups of endpoints may use: keeps the quotas, and refuses a plan that would go beyond one."""

from __future__ import annotations

from collections.abc import Mapping

from router.desired import Desired
from router.domain.audit import Record
from router.domain.errors import Conflict, NotFound
from router.domain.names import checked_name
from router.domain.quota import Quota, Usage, in_words, overdrawn, usage_of
from router.events import EventLog
from router.plan import Plan
from router.ports import QuotaStore


class QuotaExceeded(Conflict):
    """A group would use more than its quota."""


class Quotas:
    """Belongs to one event loop."""

    def __init__(self, store: QuotaStore, desired: Desired, events: EventLog) -> None:
        self._store = store
        self._desired = desired
        self._events = events
        self._quotas = store.load_quotas()

    @property
    def all(self) -> Mapping[str, tuple[Quota, Usage]]:
        """Group → its quota and what it uses, for every group that has either."""
        states = self._desired.states.values()
        groups = self._quotas.keys() | {state.endpoint.group for state in states if state.endpoint.group}
        return {group: (self._quotas.get(group, Quota()), usage_of(group, states)) for group in sorted(groups)}

    def set(self, group: str, quota: Quota, by: str) -> None:
        """What is used already stays; only more is refused. Raises `Invalid`."""
        checked_name("group", group)
        self._store.save_quota(group, quota, Record(self._events.now(), by, "quota_set", group, in_words(quota)))
        self._quotas[group] = quota

    def remove(self, group: str, by: str) -> None:
        """Raises `NotFound`."""
        if group not in self._quotas:
            raise NotFound("quota", group, tuple(sorted(self._quotas)))
        self._store.delete_quota(group, Record(self._events.now(), by, "quota_removed", group))
        del self._quotas[group]

    def check(self, plan: Plan) -> None:
        """Raises `QuotaExceeded`."""
        before = self._desired.states
        after = {**before, **{state.endpoint.name: state for state in plan.changed}}
        for name in plan.deleted:
            after.pop(name, None)
        for group in sorted({state.endpoint.group for state in plan.changed} & self._quotas.keys()):
            used, uses = usage_of(group, before.values()), usage_of(group, after.values())
            if words := overdrawn(self._quotas[group], used, uses):
                raise QuotaExceeded(
                    f"group {group!r} would use {words}: make something smaller, "
                    "or ask an admin for more (crossfade quota set)"
                )
