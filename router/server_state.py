"""What the whole gateway can say about its models in the scoring protocol's words, to whoever asks at a listener."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from router.decisions import failure_of, ready_deployments, replicas_by_endpoint
from router.domain.endpoint import AuthMode, EndpointState
from router.domain.listening import DEFAULT, Everything, Offer, Selected, Visible, shows
from router.domain.routing import Replica
from router.xds.gateway import LISTENER_HEADER
from serving.exchange import Cancel, Handler, HttpRequest, Reply
from serving.protocol import server_handler
from serving.server_view import IndexEntry, ServerView

_HEADER = LISTENER_HEADER.encode()
_DEFAULT = DEFAULT.encode()
_EVERYTHING = Everything()


def server_calls(view_of: Callable[[str], ServerView]) -> Handler:
    """Answers calls about the server. `view_of`: listener → what is told there."""
    handlers: dict[str, Handler] = {}

    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        listener = request.headers.get(_HEADER, _DEFAULT).decode("latin-1")
        handler = handlers.get(listener)
        if handler is None:
            handler = handlers[listener] = server_handler(partial(view_of, listener))
        return handler(request, reply)

    return handle


def visible_at(listener: str, offers: Iterable[Offer]) -> Visible:
    """What a listener shows; a listener that is gone, nothing."""
    return next((offer.visible for offer in offers if offer.name == listener), Selected())


def server_view(
    version: str, states: Iterable[EndpointState], replicas: Collection[Replica], visible: Visible = _EVERYTHING
) -> ServerView:
    """Ready: every deployment with traffic has a replica that answers, or sleeps. Without endpoints: ready, empty.

    Endpoints that are not `visible` count for nothing. Those that not everybody may call are not listed: who asks has
    shown nothing.
    """
    index: list[IndexEntry] = []
    is_ready = True
    groups = replicas_by_endpoint(replicas)
    for state in sorted(states, key=lambda state: state.endpoint.name):
        if not shows(visible, state.endpoint.name, state.endpoint.group):
            continue
        own = groups.get(state.endpoint.name, ())
        ready = ready_deployments(state, own)
        is_ready = is_ready and state.endpoint.traffic.deployments <= ready
        if state.endpoint.auth_mode is not AuthMode.NONE or not state.endpoint.clients.is_everybody:
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
