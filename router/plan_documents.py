"""What the documents of a spec would do. Pure: states, documents and models in, a `Plan` or refusal out.

What a spec leaves out: keys that have a command of their own (`traffic`, `mirror_traffic`, `instance_count`) stay as
they are, so that a change made by hand survives a later `apply`; every other key means its default. `scale_settings`
stand instead of `instance_count`: a spec that names neither keeps whichever there is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.listening import GatewaySpec, Premises
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.rollout import RolloutSpec
from router.domain.triton import RunningTriton
from router.domain.triton_changes import why_not_in_place
from router.models.cache_ports import NoRoom
from router.models.ports import AccessDenied, SourceUnavailable
from router.plan import Action, Change, FieldChange, GatewayPlan, Plan, change_between, shown
from router.rules import Rules, stopped_with_traffic, stopped_words
from router.spec import Document, OutOfReach, Problem, SpecProblems, to_plain
from router.spec.problems import did_you_mean

# Why a model is not here although the input may be right.
_NOT_NOW = (SourceUnavailable, AccessDenied, NoRoom)

Models = Mapping[ModelRef, ResolvedModel | ModelUnavailable]


def plan_apply(
    states: Mapping[str, EndpointState],
    documents: Sequence[Document],
    models: Models,
    rules: Rules,
    followed: Collection[tuple[str, str]] = (),
    gateway: GatewayPlan | None = None,
) -> Plan:
    """The plan that makes `documents` true. `models` has an entry for every reference in them, but for those of
    `followed` (endpoint, deployment): they keep the model that they have. `gateway`: what they say about it. `rules`
    are those that hold afterwards.

    Raises `SpecProblems` with everything that does not fit the present states, the models or the rules; it is
    `OutOfReach` when nothing is wrong but that sources of models do not answer, or that there is no room for them.
    """
    by_endpoint: dict[str, list[Document]] = {}
    for document in documents:
        if not isinstance(document.content, GatewaySpec):
            by_endpoint.setdefault(document.endpoint_name, []).append(document)
    problems: list[Problem] = []
    changed, changes = [], []
    for name, group in by_endpoint.items():
        state = states.get(name)
        found = [*_misfits(states, state, group), *_model_problems(group, models, followed)]
        planned = None if found else _planned(state, group, models, followed)
        if isinstance(planned, EndpointState):
            found += [*_broken_rules(planned, group, rules), *_not_in_place(state, planned, group)]
            difference = _difference(state, planned, group)
            changes += difference
            # A model that was moved, say with its data directory, is the same one in another place.
            is_elsewhere = state is not None and planned.deployments != state.deployments
            if is_elsewhere or any(change.action is not Action.UNCHANGED for change in difference):
                changed.append(replace(planned, revision=planned.revision + 1))
        elif planned is not None:
            found.append(planned)
        problems += found
    if gateway is not None:
        described = {doc.endpoint_name for doc in documents if isinstance(doc.content, Endpoint)}
        problems += _newly_broken(states, described, gateway, rules)
        changes.append(gateway.change)
    if problems:
        out_of_reach = {str(model) for model in models.values() if isinstance(model, _NOT_NOW)}
        may_be_right = all(problem.key == "model" and problem.message in out_of_reach for problem in problems)
        refusal = OutOfReach if may_be_right else SpecProblems
        raise refusal(sorted(problems, key=lambda problem: problem.document or 0))
    is_new = gateway is not None and gateway.change.action is not Action.UNCHANGED
    return Plan(tuple(changed), (), tuple(changes), gateway if is_new else None)


def plan_gateway(present: GatewaySpec, document: Document, premises: Premises) -> GatewayPlan:
    """Raises `SpecProblems` where it does not go with what the gateway was started with."""
    spec = document.content
    assert isinstance(spec, GatewaySpec)
    try:
        offers = premises.offers(spec)
    except Invalid as error:
        raise SpecProblems([document.problem(error.key, error.message, error.hint)]) from None
    old, new = _listeners(present), _listeners(spec)
    names = [*new, *(name for name in old if name not in new)]
    fields = tuple(
        FieldChange(f"listener {name}", old.get(name), new.get(name))
        for name in names
        if old.get(name) != new.get(name)
    )
    action = Action.CHANGED if fields else Action.UNCHANGED
    return GatewayPlan(document, spec, offers, Change(action, "", "", fields))


def _listeners(spec: GatewaySpec) -> dict[str, Any]:
    return {listener["name"]: listener for listener in to_plain(spec)["listeners"]}


def _newly_broken(
    states: Mapping[str, EndpointState], described: Collection[str], gateway: GatewayPlan, rules: Rules
) -> Iterator[Problem]:
    """Endpoints that the documents leave alone, and that would break the rules."""
    for name, state in sorted(states.items()):
        if name not in described and (broken := rules.broken_by(state.endpoint)):
            yield gateway.document.problem("listeners", broken.message, broken.hint)


def _misfits(
    states: Mapping[str, EndpointState], state: EndpointState | None, group: Sequence[Document]
) -> Iterator[Problem]:
    """Names in the documents that nobody has."""
    endpoint = _endpoint_document(group)
    if state is None and endpoint is None:
        for document in group:
            hint = did_you_mean(document.endpoint_name, states) if states else "add a document of kind Endpoint"
            yield document.problem("endpoint", f"endpoint {document.endpoint_name!r} does not exist", hint)
    deployments = {document.content.name for document in group if isinstance(document.content, Deployment)}
    deployments |= state.deployments.keys() if state else set()
    for document in group:
        spec = document.content
        if isinstance(spec, RolloutSpec) and (state or endpoint) and spec.candidate not in deployments:
            message = f"endpoint {spec.endpoint!r} has no deployment {spec.candidate!r}"
            yield document.problem("to", message, did_you_mean(spec.candidate, deployments))
    if endpoint is None:
        return
    spec = endpoint.content
    assert isinstance(spec, Endpoint)
    named = [("traffic", name) for name in sorted(spec.traffic.deployments)]
    named += [("mirror_traffic", spec.mirror.deployment)] if spec.mirror else []
    for key, name in named:
        if name not in deployments:
            message = f"endpoint {spec.name!r} has no deployment {name!r}"
            yield endpoint.problem(f"{key}.{name}", message, did_you_mean(name, deployments))


def _model_problems(
    group: Sequence[Document], models: Models, followed: Collection[tuple[str, str]]
) -> Iterator[Problem]:
    for document in group:
        spec = document.content
        if isinstance(spec, Deployment) and (spec.endpoint, spec.name) not in followed:
            model = models[spec.model] if isinstance(spec.model, ModelRef) else spec.model
            if isinstance(model, ModelUnavailable):
                yield document.problem("model", str(model))


def _planned(
    state: EndpointState | None, group: Sequence[Document], models: Models, followed: Collection[tuple[str, str]]
) -> EndpointState | Problem:
    """The endpoint with the documents merged in, still at its present revision."""
    deployments = dict(state.deployments) if state else {}
    for document in group:
        spec = document.content
        if isinstance(spec, Deployment):
            if not document.given & {"instance_count", "scale_settings"} and spec.name in deployments:
                old = deployments[spec.name].spec
                spec = replace(spec, instance_count=old.instance_count, scale_settings=old.scale_settings)
            is_followed = (spec.endpoint, spec.name) in followed
            if is_followed and spec.name not in deployments:
                return document.problem("name", f"deployment {spec.name!r} was deleted meanwhile", "apply it again")
            model: ResolvedModel | RunningTriton | ModelUnavailable
            if is_followed:
                model = deployments[spec.name].model
            else:
                model = models[spec.model] if isinstance(spec.model, ModelRef) else spec.model
            assert not isinstance(model, ModelUnavailable)
            deployments[spec.name] = DeployedModel(spec, model)
    document = _endpoint_document(group) or group[0]
    try:
        endpoint = _merged(state, document)
        return EndpointState(endpoint, MappingProxyType(deployments), state.revision if state else 0)
    except Invalid as error:
        return document.problem(error.key, error.message, error.hint)


def _merged(state: EndpointState | None, document: Document) -> Endpoint:
    spec = document.content
    if not isinstance(spec, Endpoint):
        assert state is not None
        return state.endpoint
    if state is None:
        return spec
    return replace(
        spec,
        traffic=spec.traffic if "traffic" in document.given else state.endpoint.traffic,
        mirror=spec.mirror if "mirror_traffic" in document.given else state.endpoint.mirror,
    )


def _broken_rules(planned: EndpointState, group: Sequence[Document], rules: Rules) -> Iterator[Problem]:
    document = _endpoint_document(group)
    if document is not None and (broken := rules.broken_by(planned.endpoint)):
        yield document.problem(broken.key, broken.message, broken.hint)
    deployments = {doc.content.name: doc for doc in group if isinstance(doc.content, Deployment)}
    for name in stopped_with_traffic(planned):
        about = deployments.get(name, document)
        assert about is not None  # the traffic or the count comes from one of these documents
        yield about.problem("instance_count", *stopped_words(planned, name))


def _not_in_place(state: EndpointState | None, planned: EndpointState, group: Sequence[Document]) -> Iterator[Problem]:
    for document in group:
        name = document.content.name if isinstance(document.content, Deployment) else ""
        if state is None or name not in state.deployments or not state.endpoint.traffic.percent(name):
            continue
        if reason := why_not_in_place(state.deployments[name], planned.deployments[name]):
            hint = "apply it as another deployment and move the traffic there, or take its traffic away first"
            yield document.problem("triton", reason, hint)


def _endpoint_document(group: Sequence[Document]) -> Document | None:
    return next((document for document in group if isinstance(document.content, Endpoint)), None)


def _difference(old: EndpointState | None, new: EndpointState, group: Sequence[Document]) -> list[Change]:
    """What happens to every endpoint and deployment that the documents describe; a rollout changes neither."""
    changes = []
    for document in group:
        spec = document.content
        if isinstance(spec, Endpoint):
            before = old.endpoint if old else None
            changes.append(change_between(shown(before), shown(new.endpoint), spec.name))
        elif isinstance(spec, Deployment):
            deployed = old.deployments.get(spec.name) if old else None
            changes.append(change_between(shown(deployed), shown(new.deployments[spec.name]), spec.endpoint, spec.name))
    return changes
