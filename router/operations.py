"""Everything an operator can ask for, in one place: decide, make durable, publish, tell.

Changes are serialised by one lock, from the look at the present state to its publication, so none is decided on a state
that is no longer there. Models are resolved before that, because hashing or fetching one may take long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from router.admin_ports import EndpointStatus, Reconciling, Settlement
from router.desired import Desired
from router.domain.endpoint import Deployment, EndpointState
from router.domain.errors import Conflict, ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.events import EventLog
from router.plan import (
    Action,
    Change,
    Models,
    Plan,
    RevisionConflict,
    Rules,
    plan_apply,
    plan_deployment_removal,
    plan_endpoint_removal,
    plan_scale,
    plan_traffic,
)
from router.ports import ModelSource, Store
from router.spec import Document
from router.spec.changes import Scale, TrafficChange

_MAX_MODELS_AT_ONCE = 4  # hashing is bound by the disk and by cores


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, or with a dry run would be. `revisions`: endpoint → its revision afterwards (0: it is gone)."""

    changes: tuple[Change, ...]
    revisions: Mapping[str, int]


class Operations:
    """The application service behind the admin API. Belongs to one event loop."""

    def __init__(
        self,
        desired: Desired,
        store: Store,
        models: ModelSource,
        reconciler: Reconciling,
        events: EventLog,
        rules: Rules,
    ) -> None:
        """Raises `Invalid` when an endpoint that exists breaks the rules: the gateway must not start with it."""
        self.desired = desired
        self.events = events
        self._store = store
        self._models = models
        self._reconciler = reconciler
        self._rules = rules
        self._lock = asyncio.Lock()
        self._commits: set[asyncio.Task[Done]] = set()
        for state in desired.states.values():
            if broken := rules.broken_by(state.endpoint):
                raise broken

    async def apply(
        self, documents: Sequence[Document], *, is_dry_run: bool = False, expected: Mapping[str, int] | None = None
    ) -> Done:
        """Make the documents true, all or nothing. Raises `SpecProblems`, or `RevisionConflict` against `expected`."""
        models = await self._resolved({doc.content.model for doc in documents if isinstance(doc.content, Deployment)})

        def decide() -> Plan:
            for name, revision in (expected or {}).items():
                self._check_revision(name, revision)
            return plan_apply(self.desired.states, documents, models, self._rules)

        names = {document.endpoint_name for document in documents}
        if is_dry_run:
            return self._done(decide(), names)
        return await self._commit(decide, names)

    async def change_traffic(self, name: str, change: TrafficChange, expected: int | None = None) -> Done:
        """Raises `NotFound`, `Invalid`, `RevisionConflict`."""
        return await self._commit_one(name, expected, lambda state: plan_traffic(state, change, self._rules))

    async def scale(self, name: str, deployment: str, scale: Scale, expected: int | None = None) -> Done:
        """Raises `NotFound`, `Conflict`, `Invalid`."""
        return await self._commit_one(name, expected, lambda state: plan_scale(state, deployment, scale.instance_count))

    async def delete_deployment(self, name: str, deployment: str, expected: int | None = None) -> Done:
        """Raises `NotFound`, or `Conflict` while the deployment has traffic, asked for or still in force."""

        def decide(state: EndpointState) -> Plan:
            plan = plan_deployment_removal(state, deployment)
            if percent := self._reconciler.endpoint_status(name).traffic.percent(deployment):
                raise Conflict(
                    f"deployment {deployment!r} still answers {percent}% of the requests: "
                    "who is to take over is not ready yet"
                )
            return plan

        return await self._commit_one(name, expected, decide)

    async def delete_endpoint(self, name: str, *, is_forced: bool = False, expected: int | None = None) -> Done:
        """The endpoint and its deployments. Raises `NotFound`, or `Conflict` while it has traffic and is not forced."""
        return await self._commit_one(name, expected, lambda state: plan_endpoint_removal(state, is_forced))

    async def wait_settled(self, name: str, revision: int, timeout_s: float) -> Settlement:
        """Wait until what was asked for is in force, or is known to fail."""
        return await self._reconciler.wait_settled(name, revision, timeout_s)

    def status(self, name: str) -> EndpointStatus:
        """What is true of the endpoint now. Raises `NotFound`."""
        self.desired.state(name)
        return self._reconciler.endpoint_status(name)

    async def _resolved(self, refs: Iterable[ModelRef]) -> Models:
        limit = asyncio.Semaphore(_MAX_MODELS_AT_ONCE)

        async def resolve(ref: ModelRef) -> ResolvedModel | ModelUnavailable:
            async with limit:
                try:
                    return await self._models.resolve(ref)
                except ModelUnavailable as error:
                    return error

        unique = sorted(set(refs), key=str)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(resolve(ref)) for ref in unique]
        return {ref: task.result() for ref, task in zip(unique, tasks, strict=True)}

    async def _commit_one(self, name: str, expected: int | None, decide: Callable[[EndpointState], Plan]) -> Done:
        def checked() -> Plan:
            state = self.desired.state(name)
            if expected is not None:
                self._check_revision(name, expected)
            return decide(state)

        return await self._commit(checked, {name})

    async def _commit(self, decide: Callable[[], Plan], names: Iterable[str]) -> Done:
        """Run to the end even when the caller is cancelled: a change must not be durable and unpublished."""
        task = asyncio.create_task(self._commit_locked(decide, names))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return await asyncio.shield(task)

    async def _commit_locked(self, decide: Callable[[], Plan], names: Iterable[str]) -> Done:
        async with self._lock:
            plan = decide()
            if plan.changed or plan.deleted:
                await asyncio.to_thread(self._store.save, plan.changed, plan.deleted)
                self.desired.publish(plan.changed, plan.deleted)
                self._tell(plan)
            return self._done(plan, names)

    def _tell(self, plan: Plan) -> None:
        for change in plan.changes:
            if change.action is not Action.UNCHANGED:
                kind = f"{'deployment' if change.deployment else 'endpoint'}_{change.action}"
                message = in_words(change)
                self.events.publish(kind, message, endpoint=change.endpoint, deployment=change.deployment)
        for name in (*(state.endpoint.name for state in plan.changed), *plan.deleted):
            self._reconciler.endpoint_changed(name)

    def _done(self, plan: Plan, names: Iterable[str]) -> Done:
        """Before a dry run's plan is published, an endpoint that it would create is at revision 0."""
        states = self.desired.states
        revisions = {name: states[name].revision if name in states else 0 for name in sorted(names)}
        return Done(plan.changes, revisions)

    def _check_revision(self, name: str, expected: int) -> None:
        state = self.desired.states.get(name)
        actual = state.revision if state else 0
        if actual != expected:
            raise RevisionConflict(name, expected, actual)


def in_words(change: Change) -> str:
    """One line for an operator: "deployment filetype/green changed: instance_count 1 → 2"."""
    what = f"deployment {change.endpoint}/{change.deployment}" if change.deployment else f"endpoint {change.endpoint}"
    fields = ", ".join(f"{field.key} {_shown(field.old)} → {_shown(field.new)}" for field in change.fields)
    return f"{what} {change.action}" + (f": {fields}" if fields else "")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={percent}" for name, percent in value.items()) or "none"
    return "none" if value is None else str(value)
