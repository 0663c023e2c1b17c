"""Everything an operator can ask for of endpoints and deployments, in one place: decide, and have it committed.

Models are resolved before the decision, because hashing or fetching one may take long. A change that would cross a
rollout is refused, or ends it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from router.admin_ports import EndpointStatus, Observer, Settlement
from router.commits import Commits, Done
from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict, Invalid, ModelUnavailable
from router.domain.listening import GatewaySpec, Premises
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.rollout import Rollout
from router.interference import crossed_rollouts, refusal, watch_of
from router.plan import GatewayPlan, Plan, RevisionConflict
from router.plan_commands import plan_deployment_removal, plan_endpoint_removal, plan_scale, plan_traffic
from router.plan_documents import Models, plan_apply, plan_gateway
from router.ports import ModelSource
from router.quotas import Quotas
from router.rollout_ports import MakesWay
from router.rules import Rules, overheard
from router.spec import Document, Problem, SpecProblems, read_documents, to_plain
from router.spec.changes import Scale, TrafficChange

_MAX_MODELS_AT_ONCE = 4  # hashing is bound by the disk and by cores
_OPERATOR = "an operator"


class Operations:
    """The application service behind the admin API. Belongs to one event loop.

    `is_forced`: abort a rollout that the change would cross, and wait until it has gone back. `by`: who asks.
    """

    def __init__(
        self,
        commits: Commits,
        models: ModelSource,
        observer: Observer,
        rollouts: MakesWay,
        quotas: Quotas,
        premises: Premises,
    ) -> None:
        """Raises `Invalid` when the gateway, or an endpoint, is to be what it cannot be here: it must not start so."""
        self.desired = commits.desired
        self.events = commits.events
        self._commits = commits
        self._models = models
        self._observer = observer
        self._rollouts = rollouts
        self._quotas = quotas
        self._premises = premises
        self.desired.publish_gateway(self.desired.gateway, premises.offers(self.desired.gateway))
        for state in self.desired.states.values():
            if broken := self._rules.broken_by(state.endpoint):
                raise broken

    @property
    def _rules(self) -> Rules:
        return Rules(self.desired.offers, self._premises.verifies_clients)

    async def apply(
        self,
        documents: Sequence[Document],
        *,
        is_dry_run: bool = False,
        expected: Mapping[str, int] | None = None,
        is_forced: bool = False,
        is_signature_change_allowed: bool = False,
        by: str = _OPERATOR,
    ) -> Done:
        """Make the documents true, all or nothing.

        `is_signature_change_allowed`: a model may take or give something else than the one that answers now. Raises
        `SpecProblems`, `RevisionConflict` against `expected`, or `Conflict` with a rollout that is under way.
        """
        notes: list[str] = []
        followed = self._followed(documents)
        specs = [doc.content for doc in documents if isinstance(doc.content, Deployment)]
        asked = [it for it in specs if not it.is_elsewhere and (it.endpoint, it.name) not in followed]
        models = await self._resolved(asked, by, notes)

        def decide() -> Plan:
            gateway = self._planned_gateway(documents)
            rules = replace(self._rules, offers=gateway.offers) if gateway else self._rules
            return plan_apply(self.desired.states, documents, models, rules, followed, gateway)

        names = {document.endpoint_name for document in documents} - {""}
        if is_dry_run:
            self._check_revisions(expected or {})
            plan = decide()
            notes += self._warnings(plan, names)
            self._quotas.check(plan)
            if not is_forced:
                self._check_rollouts(plan)
            return replace(self._commits.done(plan, names), notes=tuple(notes))
        self._check_revisions(expected or {})
        plan = decide()
        notes += self._warnings(plan, names)
        await self._approve(plan, documents, is_signature_change_allowed)
        done = await self._commit(decide, names, expected or {}, is_forced, by)
        return replace(done, notes=tuple(notes))

    def _warnings(self, plan: Plan, names: Collection[str]) -> list[str]:
        """About what the plan leads to: the endpoints of these names, or all where listeners change."""
        states = {**self.desired.states, **{state.endpoint.name: state for state in plan.changed}}
        offers = plan.gateway.offers if plan.gateway else self.desired.offers
        concerned = [state.endpoint for name, state in sorted(states.items()) if plan.gateway or name in names]
        return [text for it in concerned for text in overheard(offers, it.name, it.group, it.auth_mode)]

    async def deploy(self, deployment: Deployment, model: ResolvedModel, *, by: str) -> Done:
        """Make the deployment run this very model, whatever its reference names by now.

        Raises `SpecProblems`, `NotFound`, or `Conflict` with a rollout that is under way.
        """
        (document,) = read_documents([to_plain(deployment)])

        def decide(state: EndpointState) -> Plan:
            return plan_apply({deployment.endpoint: state}, [document], {deployment.reference: model}, self._rules)

        return await self._commit_one(deployment.endpoint, None, decide, by=by)

    async def change_traffic(
        self,
        name: str,
        change: TrafficChange,
        expected: int | None = None,
        *,
        is_forced: bool = False,
        by: str = _OPERATOR,
    ) -> Done:
        """Raises `NotFound`, `Invalid`, `RevisionConflict`, or `Conflict` with a rollout that is under way."""
        return await self._commit_one(
            name,
            expected,
            lambda state: self._planned(state, lambda it: plan_traffic(it, change, self._rules)),
            is_forced,
            by,
        )

    async def scale(
        self, name: str, deployment: str, scale: Scale, expected: int | None = None, *, by: str = _OPERATOR
    ) -> Done:
        """Raises `NotFound`, `Conflict`, `Invalid`."""
        return await self._commit_one(
            name, expected, lambda state: plan_scale(state, deployment, scale.instance_count), by=by
        )

    async def delete_deployment(
        self,
        name: str,
        deployment: str,
        expected: int | None = None,
        *,
        is_forced: bool = False,
        by: str = _OPERATOR,
    ) -> Done:
        """Raises `NotFound`, or `Conflict` while the deployment has traffic, asked for or still in force, or a part in
        a rollout that is under way."""

        def decide(state: EndpointState) -> Plan:
            plan = self._planned(state, lambda it: plan_deployment_removal(it, deployment))
            is_with_rollout = self._open_rollout(name) is not None  # then it is told so, or ends first
            percent = self._observer.endpoint_status(name).traffic.percent(deployment)
            if percent and not is_with_rollout:
                raise Conflict(
                    f"deployment {deployment!r} still answers {percent}% of the requests: "
                    "who is to take over is not ready yet"
                )
            return plan

        return await self._commit_one(name, expected, decide, is_forced, by)

    async def delete_endpoint(
        self, name: str, *, is_forced: bool = False, expected: int | None = None, by: str = _OPERATOR
    ) -> Done:
        """The endpoint, its deployments and its rollouts. Raises `NotFound`, or `Conflict` while it has traffic and is
        not forced."""
        return await self._commit_one(name, expected, lambda state: plan_endpoint_removal(state, is_forced), by=by)

    async def wait_settled(self, name: str, revision: int, timeout_s: float) -> Settlement:
        """Wait until what was asked for is in force, or is known to fail."""
        return await self._observer.wait_settled(name, revision, timeout_s)

    async def wait_listening(self, timeout_s: float) -> Settlement:
        """Wait until the gateway's listeners are in force, or are known to fail."""
        return await self._observer.wait_listening(timeout_s)

    def status(self, name: str) -> EndpointStatus:
        """What is true of the endpoint now. Raises `NotFound`."""
        self.desired.state(name)
        return self._observer.endpoint_status(name)

    def _planned_gateway(self, documents: Sequence[Document]) -> GatewayPlan | None:
        document = next((item for item in documents if isinstance(item.content, GatewaySpec)), None)
        return plan_gateway(self.desired.gateway, document, self._premises) if document else None

    async def _resolved(self, deployments: Sequence[Deployment], by: str, notes: list[str]) -> Models:
        limit = asyncio.Semaphore(_MAX_MODELS_AT_ONCE)

        async def resolve(ref: ModelRef) -> ResolvedModel | ModelUnavailable:
            async with limit:
                try:
                    return await self._models.resolve(ref, by)
                except ModelUnavailable as error:
                    return self._present_model(ref, deployments, error, notes)

        unique = sorted({deployment.reference for deployment in deployments}, key=str)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(resolve(ref)) for ref in unique]
        return {ref: task.result() for ref, task in zip(unique, tasks, strict=True)}

    def _present_model(
        self, ref: ModelRef, deployments: Iterable[Deployment], error: ModelUnavailable, notes: list[str]
    ) -> ResolvedModel | ModelUnavailable:
        """What runs under this very reference goes on: trouble with its source is no reason to touch it, nor to refuse
        a change of something else."""
        present = {self._present(item) for item in deployments if item.model == ref}
        if len(present) != 1 or None in present:
            return error
        (deployed,) = present
        assert deployed is not None
        note = f"the model of {deployed.spec.name!r} stays {deployed.content.short_digest}: {error}"
        notes.append(note)
        self.events.publish("model_not_resolved", note, endpoint=deployed.spec.endpoint, deployment=deployed.spec.name)
        return deployed.content

    def _followed(self, documents: Sequence[Document]) -> frozenset[tuple[str, str]]:
        """Deployments of watched endpoints whose reference stays: what that names is the watch's business, which rolls
        it out beside them. Applying the same file again changes no model in place."""
        found = (item.content for item in documents if isinstance(item.content, Deployment))
        return frozenset(
            (item.endpoint, item.name)
            for item in found
            if watch_of(item.endpoint, documents, self.desired) is not None and self._present(item) is not None
        )

    def _present(self, deployment: Deployment) -> DeployedModel | None:
        """The deployment of that name as it is, when it has the same reference."""
        state = self.desired.states.get(deployment.endpoint)
        deployed = state.deployments.get(deployment.name) if state else None
        return deployed if deployed and deployed.spec.model == deployment.model else None

    async def _approve(self, plan: Plan, documents: Sequence[Document], is_signature_change_allowed: bool) -> None:
        """Look at every model that would be loaded anew. Raises `SpecProblems`."""
        problems: list[Problem] = []
        for state in plan.changed:
            before = self.desired.states.get(state.endpoint.name)
            for name, deployed in state.deployments.items():
                present = before.deployments.get(name) if before else None
                if present and present.generation == deployed.generation:
                    continue
                try:
                    await self._models.approve(
                        deployed, before, is_signature_change_allowed=is_signature_change_allowed
                    )
                except ModelUnavailable as error:
                    document = next(item for item in documents if item.content == deployed.spec)
                    problems.append(document.problem("model", str(error)))
        if problems:
            raise SpecProblems(problems)

    async def _commit_one(
        self,
        name: str,
        expected: int | None,
        decide: Callable[[EndpointState], Plan],
        is_forced: bool = False,
        by: str = _OPERATOR,
    ) -> Done:
        self.desired.state(name)  # NotFound comes before any other trouble
        revisions = {} if expected is None else {name: expected}
        return await self._commit(lambda: decide(self.desired.state(name)), {name}, revisions, is_forced, by)

    async def _commit(
        self, decide: Callable[[], Plan], names: Iterable[str], expected: Mapping[str, int], is_forced: bool, by: str
    ) -> Done:
        self._check_revisions(expected)
        ended = await self._make_way(decide, is_forced, by)
        still_expected = {name: revision for name, revision in expected.items() if name not in ended}

        def checked() -> Plan:
            self._check_revisions(still_expected)
            plan = decide()
            self._quotas.check(plan)
            self._check_rollouts(plan)
            return plan

        return await self._commits.commit(checked, names, by)

    def _planned(self, state: EndpointState, plan: Callable[[EndpointState], Plan]) -> Plan:
        """The plan as things are; or, where it does not go with what a rollout has moved so far, as without that."""
        try:
            return plan(state)
        except (Invalid, Conflict):
            rollout = self._open_rollout(state.endpoint.name)
            if rollout is None:
                raise
            before = rollout.all_on_stable
            endpoint = replace(state.endpoint, traffic=before.traffic, mirror=before.mirror)
            return plan(state.with_endpoint(endpoint))

    def _open_rollout(self, endpoint: str) -> Rollout | None:
        """The one that is not decided yet."""
        rollout = self.desired.rollout(endpoint)
        return None if rollout is None or rollout.phase.is_decided else rollout

    async def _make_way(self, decide: Callable[[], Plan], is_forced: bool, by: str) -> frozenset[str]:
        """End the rollouts that the plan would cross and that may be ended. Returns their endpoints."""
        crossed = crossed_rollouts(decide(), self.desired)
        for rollout, what in crossed:
            if not is_forced and not rollout.phase.is_decided:
                raise refusal(rollout, what)
        for rollout, _ in crossed:
            await self._rollouts.make_way(rollout.endpoint, by)
        return frozenset(rollout.endpoint for rollout, _ in crossed)

    def _check_rollouts(self, plan: Plan) -> None:
        for rollout, what in crossed_rollouts(plan, self.desired):
            if not rollout.phase.is_decided:
                raise refusal(rollout, what)

    def _check_revisions(self, expected: Mapping[str, int]) -> None:
        for name, revision in expected.items():
            state = self.desired.states.get(name)
            actual = state.revision if state else 0
            if actual != revision:
                raise RevisionConflict(name, revision, actual)
