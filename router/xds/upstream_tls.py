"""TLS from Envoy to Tritons. As the listener's, certificates come as secrets over the discovery stream (SDS): a
cluster names them and does not hold them, so a new certificate leaves it and its connections alone, and new connections
get it.

A Triton that has another certificate than one of the named CA, for the name that is expected, is not talked to.
"""

from __future__ import annotations

import hashlib
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from envoy.type.v3 import http_pb2

from router.domain.tls import CertificatePair, ClientTrust
from router.domain.triton_tls import TritonTls
from router.xds.names import SECRET, Key
from router.xds.resources import Resource, packed
from router.xds.secrets import TLS_SOCKET, pair_secret, protocol_parameters, sds, validation_secret

HTTP2, HTTP1 = "h2", "http/1.1"  # as ALPN has them


def upstream_secret_keys(tls: TritonTls) -> frozenset[Key]:
    """What a cluster with this TLS asks for."""
    names = [_trust_name(tls), *([_pair_name(tls)] if tls.shown else [])]
    return frozenset(Key(SECRET, name) for name in names)


def upstream_pair_secret(tls: TritonTls, pair: CertificatePair) -> Resource:
    return pair_secret(_pair_name(tls), pair)


def upstream_trust_secret(tls: TritonTls, trust: ClientTrust) -> Resource:
    return validation_secret(_trust_name(tls), trust)


def upstream_tls_socket(tls: TritonTls, *, is_http2: bool) -> Any:
    """The transport socket of a cluster that speaks TLS only."""
    matcher = common_pb2.SubjectAltNameMatcher
    name = matcher(
        san_type=matcher.IP_ADDRESS if tls.is_named_by_address else matcher.DNS,
        matcher=string_pb2.StringMatcher(exact=tls.server_name),
    )
    common = tls_pb2.CommonTlsContext(
        tls_params=protocol_parameters(),
        alpn_protocols=[HTTP2 if is_http2 else HTTP1],
        tls_certificate_sds_secret_configs=[sds(_pair_name(tls))] if tls.shown else [],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=[name]),
            validation_context_sds_secret_config=sds(_trust_name(tls)),
        ),
    )
    context = tls_pb2.UpstreamTlsContext(
        common_tls_context=common, sni="" if tls.is_named_by_address else tls.server_name
    )
    return base_pb2.TransportSocket(name=TLS_SOCKET, typed_config=packed(context))


def protocol_of_check(check: Any) -> str:
    """The one that it is asked by, which need not be the cluster's."""
    return HTTP2 if check.codec_client_type == http_pb2.CodecClientType.HTTP2 else HTTP1


def _pair_name(tls: TritonTls) -> str:
    return f"triton/certificate/{_digest(tls.certificate, tls.key)}"


def _trust_name(tls: TritonTls) -> str:
    return f"triton/ca/{_digest(tls.ca)}"


def _digest(*paths: str) -> str:
    return hashlib.sha256("\0".join(paths).encode()).hexdigest()[:16]
