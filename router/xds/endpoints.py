"""Envoy's endpoints: the addresses behind a cluster."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from router.domain.routing import Address, TcpAddress, TritonAddress, UnixAddress, Upstream
from router.domain.tls import Secret
from router.domain.triton_managed import ManagedModel
from router.xds.replica_tls import mark_as_remote
from router.xds.resources import Resource, resource
from router.xds.triton import served_metadata

# Enough that some of them live; few, so that a thousand endpoints do not make this resource big or restless.
STANDBY_SIZE = 8


def addresses_of(
    cluster: Resource, upstream: Upstream, shown: Secret | None = None, *, is_grpc_port: bool = False
) -> Resource:
    """The replicas of one deployment, or the waiting room, whose health nobody needs to check; or its Tritons.

    They bear the deployment's name: who answered, also behind a shield. And Tritons what is `shown` to them.
    """
    locality = _locality(upstream.addresses, priority=0, hostname=upstream.deployment, is_grpc_port=is_grpc_port)
    for member, address in zip(locality.lb_endpoints, sorted(upstream.addresses, key=str), strict=True):
        if upstream.is_held:
            member.endpoint.health_check_config.disable_active_health_check = True
        if isinstance(address, TritonAddress):
            member.metadata.CopyFrom(served_metadata(upstream, shown))
            if isinstance(upstream.triton, ManagedModel):
                mark_as_remote(member.metadata)  # means nothing to a cluster whose Tritons are on this host
            if not upstream.is_grpc_only:  # there, whether it is ready is asked over HTTP
                member.endpoint.health_check_config.port_value = address.http_port
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster.key.name, endpoints=[locality])
    return resource(cluster.key.name, message).following(cluster)


def server_addresses(cluster: Resource, server_socket: str, standby: Iterable[Address]) -> Resource:
    """The control plane first; replicas while it is down."""
    message = endpoint_pb2.ClusterLoadAssignment(
        cluster_name=cluster.key.name,
        endpoints=[_locality([UnixAddress(server_socket)], priority=0), _locality(standby, priority=1)],
    )
    return resource(cluster.key.name, message).following(cluster)


class Standby:
    """Chooses the replicas that stand in for the control plane: `STANDBY_SIZE` of all, by a hash of the address.

    By hash, so that the choice hardly ever changes when a replica comes or goes.
    """

    def __init__(self) -> None:
        self._ranked: list[tuple[str, Address]] = []

    def replace(self, before: Iterable[Address], after: Iterable[Address]) -> None:
        old, new = set(before), set(after)
        for address in old - new:
            del self._ranked[bisect_left(self._ranked, _rank(address))]
        for address in new - old:
            insort(self._ranked, _rank(address))

    def chosen(self) -> tuple[Address, ...]:
        return tuple(address for _, address in self._ranked[:STANDBY_SIZE])


def _rank(address: Address) -> tuple[str, Address]:
    return hashlib.sha256(str(address).encode()).hexdigest(), address


def _locality(addresses: Iterable[Address], priority: int, hostname: str = "", *, is_grpc_port: bool = False) -> Any:
    ordered = sorted(addresses, key=str)
    locality = endpoint_components_pb2.LocalityLbEndpoints(
        priority=priority,
        lb_endpoints=[
            endpoint_components_pb2.LbEndpoint(
                endpoint=endpoint_components_pb2.Endpoint(
                    address=envoy_address(address, is_grpc_port=is_grpc_port), hostname=hostname
                )
            )
            for address in ordered
        ],
    )
    for member, address in zip(locality.lb_endpoints, ordered, strict=True):
        if isinstance(address, TcpAddress):
            mark_as_remote(member.metadata)
    return locality


def envoy_address(address: Address, *, is_grpc_port: bool = False) -> Any:
    match address:
        case UnixAddress(path):
            return address_pb2.Address(pipe=address_pb2.Pipe(path=path))
        case TcpAddress(ip, port):
            return _socket(ip, port)
        case TritonAddress(ip, http_port, grpc_port):
            return _socket(ip, grpc_port if is_grpc_port else http_port)


def _socket(ip: str, port: int) -> Any:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=ip, port_value=port))
