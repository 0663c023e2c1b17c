"""Secrets: the certificates of the listener and whom it trusts, sent to Envoy over the discovery stream (SDS).

The listener names them and does not hold them, so a new certificate leaves listener and connections alone: those that
are open keep the certificate that they began with, new ones get the new one.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from router.domain.tls import CertificatePair, ClientTrust, ListenerTls
from router.xds.names import SECRET, Key
from router.xds.resources import Resource, packed, resource

TLS_SOCKET = "envoy.transport_sockets.tls"
CLIENT_TRUST = "client-trust"

# What is left of TLS 1.2 when everything without forward secrecy and authenticated encryption is gone. (TLS 1.3 has
# nothing else, and its suites are not chosen.)
_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
# The first is post-quantum: what is recorded today is not read tomorrow.
_CURVES = ("X25519MLKEM768", "X25519", "P-256", "P-384")

_PROTOCOL = common_pb2.TlsParameters


def certificate_name(index: int) -> str:
    return f"certificate/{index}"


def secret_keys(tls: ListenerTls) -> frozenset[Key]:
    """What a listener with this TLS asks for."""
    names = [certificate_name(index) for index in range(len(tls.certificates))]
    return frozenset(Key(SECRET, name) for name in [*names, *([CLIENT_TRUST] if tls.has_client_ca else [])])


def certificate_secret(index: int, pair: CertificatePair) -> Resource:
    return pair_secret(certificate_name(index), pair)


def trust_secret(trust: ClientTrust) -> Resource:
    return validation_secret(CLIENT_TRUST, trust)


def pair_secret(name: str, pair: CertificatePair) -> Resource:
    certificate = common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_bytes=pair.chain),
        private_key=base_pb2.DataSource(inline_bytes=pair.key.value),
    )
    return resource(name, secret_pb2.Secret(name=name, tls_certificate=certificate))


def validation_secret(name: str, trust: ClientTrust) -> Resource:
    context = common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(inline_bytes=trust.authorities))
    if trust.revocations:
        context.crl.inline_bytes = trust.revocations
    return resource(name, secret_pb2.Secret(name=name, validation_context=context))


def protocol_parameters() -> Any:
    return _PROTOCOL(
        tls_minimum_protocol_version=_PROTOCOL.TLSv1_2,
        tls_maximum_protocol_version=_PROTOCOL.TLSv1_3,
        cipher_suites=_CIPHERS,
        ecdh_curves=_CURVES,
    )


def tls_socket(tls: ListenerTls) -> Any:
    """The transport socket of a listener that speaks TLS only."""
    common = tls_pb2.CommonTlsContext(
        tls_params=protocol_parameters(),
        alpn_protocols=["h2", "http/1.1"],
        tls_certificate_sds_secret_configs=[sds(certificate_name(index)) for index in range(len(tls.certificates))],
    )
    if tls.has_client_ca:
        common.validation_context_sds_secret_config.CopyFrom(sds(CLIENT_TRUST))
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=common,
        # Each endpoint says whether it needs a client's certificate. One that is shown is always verified.
        require_client_certificate=BoolValue(value=False),
    )
    if tls.has_client_ca:
        # A resumed session is not verified again, so one could outlive its certificate's revocation.
        context.disable_stateless_session_resumption = True
        context.disable_stateful_session_resumption = True
    return base_pb2.TransportSocket(name=TLS_SOCKET, typed_config=packed(context))


def sds(name: str) -> Any:
    """Where a secret comes from."""
    ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads)
