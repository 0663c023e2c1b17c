"""Clients by their address: whose requests are taken, and whose word is taken for what that address is.

The address is that of the connection, unless a trusted proxy says otherwise. Two lists are checked: the listener's
first of all, so that who is not on it learns the same of every path; the endpoint's where the path names the endpoint,
and again behind the translation (translation.py), as with keys (access.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.core.v3 import address_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_rbac_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.original_ip_detection.xff.v3 import xff_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from router.domain.listening import Clients, Offer
from router.xds.hot_path import without
from router.xds.resources import packed

_OF_LISTENER, _FRONT, _BACK = "crossfade.address.listener", "crossfade.address.front", "crossfade.address.back"
_POLICY = "address"

# Envoy's words for such a refusal, in the access log and for local_replies.py.
REFUSED_ADDRESS = f"rbac_access_denied_matched_policy[{_POLICY}]"


def listener_clients_filter(clients: Clients) -> list[Any]:
    """The listener's own list."""
    if clients.is_everybody:
        return []
    return [hcm_pb2.HttpFilter(name=_OF_LISTENER, typed_config=packed(_refusing(clients)))]


def front_clients_filter() -> Any:
    """Where the path names the endpoint. Does what a route says; so does the next."""
    return hcm_pb2.HttpFilter(name=_FRONT, typed_config=packed(filter_rbac_pb2.RBAC()))


def back_clients_filter() -> Any:
    return hcm_pb2.HttpFilter(name=_BACK, typed_config=packed(filter_rbac_pb2.RBAC()))


def clients_config(clients: Clients) -> Mapping[str, Any]:
    """What an endpoint's routes say to these filters."""
    if clients.is_everybody:
        return without(_FRONT, _BACK)
    config = packed(filter_rbac_pb2.RBACPerRoute(rbac=_refusing(clients)))
    return {_FRONT: config, _BACK: config}


def address_detection(offer: Offer) -> dict[str, Any]:
    """Fields of the connection manager: where the address of a request is taken from."""
    if not offer.trusted_proxies:
        # Clients are not trusted with Envoy's own headers.
        return {"use_remote_address": BoolValue(value=True)}
    networks = _ranges(offer.trusted_proxies)
    xff = xff_pb2.XffConfig(
        xff_trusted_cidrs=xff_pb2.XffTrustedCidrs(cidrs=networks), skip_xff_append=BoolValue(value=False)
    )
    extension = extension_pb2.TypedExtensionConfig(
        name="envoy.http.original_ip_detection.xff", typed_config=packed(xff)
    )
    return {"original_ip_detection_extensions": [extension]}


def proxy_protocol_filters(offer: Offer) -> list[Any]:
    """Listener filters."""
    if not offer.is_proxied:
        return []
    config = packed(proxy_protocol_pb2.ProxyProtocol())
    return [listener_components_pb2.ListenerFilter(name="envoy.filters.listener.proxy_protocol", typed_config=config)]


def proxy_match(offer: Offer) -> Any:
    """Whose connections the filter chain takes. With the PROXY protocol, whoever connects could claim any address; so
    connections from elsewhere than the trusted proxies match nothing, and Envoy closes them."""
    if not offer.is_proxied:
        return None
    return listener_components_pb2.FilterChainMatch(
        direct_source_prefix_ranges=[_range(network) for network in offer.trusted_proxies]
    )


def _refusing(clients: Clients) -> Any:
    policy = rbac_pb2.Policy(permissions=[rbac_pb2.Permission(any=True)], principals=_from(clients.deny))
    if clients.allow:
        allowed = rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=_from(clients.allow)))
        policy.principals.append(rbac_pb2.Principal(not_id=allowed))
    return filter_rbac_pb2.RBAC(rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies={_POLICY: policy}))


def _from(networks: Iterable[str]) -> list[Any]:
    return [rbac_pb2.Principal(remote_ip=it) for it in _ranges(networks)]


def _ranges(networks: Iterable[str]) -> list[Any]:
    """An IPv4 address is the same where a proxy that listens for both writes it as one of IPv6 (RFC 4291 §2.5.5.2):
    Envoy compares it with networks of IPv6 alone."""
    found = []
    for network in networks:
        found.append(_range(network))
        prefix, _, length = network.partition("/")
        if ":" not in prefix:
            found.append(_range(f"::ffff:{prefix}/{96 + int(length)}"))
    return found


def _range(network: str) -> Any:
    prefix, _, length = network.partition("/")
    return address_pb2.CidrRange(address_prefix=prefix, prefix_len=UInt32Value(value=int(length)))
