"""What the whole gateway can say about its models in the scoring protocol's words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from router.decisions import failure_of, ready_deployments, replicas_by_endpoint
from router.domain.endpoint import AuthMode, EndpointState
from router.domain.routing import Replica
from serving.server_view import IndexEntry, ServerView


def server_view(version: str, states: Iterable[EndpointState], replicas: Collection[Replica]) -> ServerView:
    """Ready: every deployment with traffic has a replica that answers, or sleeps. Without endpoints: ready, empty.

    Endpoints that not everybody may call are not listed: who asks has shown nothing.
    """
    index: list[IndexEntry] = []
    is_ready = True
    groups = replicas_by_endpoint(replicas)
    for state in sorted(states, key=lambda state: state.endpoint.name):
        own = groups.get(state.endpoint.name, ())
        ready = ready_deployments(state, own)
        is_ready = is_ready and state.endpoint.traffic.deployments <= ready
        if state.endpoint.auth_mode is not AuthMode.NONE:
            continue
        for name, deployed in sorted(state.deployments.items()):
            if name in ready:
                index.append(IndexEntry(state.endpoint.name, deployed.model_version, "READY"))
                continue
            failure = failure_of(deployed, own)
            is_loading = deployed.spec.least_instances > 0 and not failure
            index.append(
                IndexEntry(
                    state.endpoint.name, deployed.model_version, "LOADING" if is_loading else "UNAVAILABLE", failure
                )
            )
    return ServerView(version, is_ready, tuple(index))
