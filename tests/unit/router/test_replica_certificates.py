"""The internal CA: made once, what it signs and what it declines, and when its certificates are renewed."""

from __future__ import annotations

import ipaddress
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.internal_authority import InternalAuthority
from adapters.replica_tls import ReplicaKeys
from router.domain.endpoint import EndpointState
from router.domain.replica_tls import CertificateRequest, Certified, Declined, ReplicaName, canonical_ip
from router.domain.tls import BadCertificate
from router.replica_certificates import ReplicaCertificates
from tests.internal_ca import BLUE, GATEWAY, Witnessed, internal_ca, request_of
from tests.unit.router.states import deployed, state

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def states() -> dict[str, EndpointState]:
    return {"fraud": state({"blue": 100}, deployed("blue"))}


def issuer(clock: Clock, secrets: Witnessed, ca: InternalAuthority | None = None) -> ReplicaCertificates:
    return ReplicaCertificates(ca or internal_ca(), (secrets,), states(), clock)


def certificate(chain: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain)


def usage(chain: bytes) -> list[x509.ObjectIdentifier]:
    return list(certificate(chain).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def names(chain: bytes) -> list[str]:
    found = certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


# -- the CA


def test_it_is_made_once_and_only_this_user_may_read_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "internal-ca"
    first = InternalAuthority.in_folder(folder, GATEWAY, NOW)
    again = InternalAuthority.in_folder(folder, GATEWAY, NOW + DAY)
    assert first.trust == again.trust
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (status,) = first.status
    assert status.facts is not None
    assert (status.facts.not_after - NOW, status.facts.names) == (3650 * DAY, ("internal CA",))


@pytest.mark.parametrize("broken", ["ca.pem", "ca.key"])
def test_one_that_is_broken_is_not_replaced_and_says_what_to_do(tmp_path: Path, broken: str) -> None:
    InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    (tmp_path / broken).write_text("nothing")
    with pytest.raises(BadCertificate, match="from a backup, or remove it"):
        InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    assert (tmp_path / broken).read_text() == "nothing"


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
def test_one_that_has_lost_a_file_is_not_replaced_and_says_what_to_do(tmp_path: Path, lost: str) -> None:
    InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    (tmp_path / lost).unlink()
    with pytest.raises(BadCertificate, match=f"{lost} is missing; bring .* from a backup, or remove it"):
        InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    assert not (tmp_path / lost).exists()


def test_one_that_loses_a_file_while_it_runs_goes_on_and_says_so(tmp_path: Path) -> None:
    ca = InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    (tmp_path / "ca.pem").unlink()
    assert "ca.pem is missing" in ca.look(NOW)
    assert "ca.pem is missing" in ca.status[0].refused
    ca.for_envoy(NOW)


# -- what a replica gets


def test_a_replica_gets_a_servers_certificate_for_its_name_and_address_for_a_day() -> None:
    answer = issuer(Clock(), Witnessed()).answer(request_of(BLUE))
    assert isinstance(answer, Certified)
    assert names(answer.chain) == [f"crossfade://{GATEWAY}/replica/fraud/blue/00ab", "127.0.0.1"]
    assert usage(answer.chain) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert answer.not_after == NOW + DAY
    constraints = certificate(answer.chain).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False


def test_the_gateways_own_is_a_clients_and_no_servers() -> None:
    pair = internal_ca().for_envoy(NOW)
    assert usage(pair.chain) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert names(pair.chain) == [f"crossfade://{GATEWAY}/envoy"]


def test_the_answer_fits_the_key_that_was_made_last_and_no_other() -> None:
    ca, keys = internal_ca(), ReplicaKeys()
    first = ca.for_replica(request_of(BLUE, keys), datetime.now(UTC))
    second = ca.for_replica(request_of(BLUE, keys), datetime.now(UTC))
    with pytest.raises(BadCertificate, match="MISMATCH"):
        keys.take(first)
    keys.take(second)
    with pytest.raises(BadCertificate, match="not asked for"):
        ReplicaKeys().take(second)


OTHERS = [
    replace(BLUE, ip="10.0.0.7"),
    replace(BLUE, replica="00ac"),
    replace(BLUE, deployment="green"),
    replace(BLUE, endpoint="spam"),
    replace(BLUE, gateway="cf000000"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_request_that_was_signed_for_somebody_else_is_declined(other: ReplicaName) -> None:
    request = CertificateRequest(BLUE, ReplicaKeys().request(other))
    answer = issuer(Clock(), Witnessed()).answer(request)
    assert isinstance(answer, Declined)
    assert f"is for {other.uri}, {other.ip}" in answer.reason


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (replace(BLUE, endpoint="spam"), "no deployment spam/blue"),
        (replace(BLUE, deployment="green"), "no deployment fraud/green"),
        (replace(BLUE, gateway="cf000000"), "of the gateway cf000000, not"),
        (replace(BLUE, replica="../x"), "not the id of a replica"),
        (replace(BLUE, ip="example.com"), "not an IP address"),
    ],
)
def test_whoever_is_no_replica_of_this_gateway_is_declined(name: ReplicaName, why: str) -> None:
    answer = issuer(Clock(), Witnessed()).answer(CertificateRequest(name, ReplicaKeys().request(BLUE)))
    assert isinstance(answer, Declined)
    assert why in answer.reason


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [("FD00:0:0::0A", "fd00::a"), ("::ffff:10.0.0.7", "::ffff:a00:7"), ("10.0.0.7", "10.0.0.7")],
)
def test_an_address_is_certified_however_the_node_spells_it(spelled: str, canonical: str) -> None:
    """As serving/app.py names a replica."""
    name = replace(BLUE, ip=canonical_ip(spelled))
    answer = issuer(Clock(), Witnessed()).answer(request_of(name))
    assert isinstance(answer, Certified)
    assert names(answer.chain)[1] == str(ipaddress.ip_address(name.ip)) == str(ipaddress.ip_address(spelled))


def test_what_is_no_address_is_left_for_the_control_plane_to_decline() -> None:
    assert canonical_ip("node-7.example") == "node-7.example"


def signed_by(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sans(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


EC_KEY = ec.generate_private_key(ec.SECP256R1())


def tampered() -> bytes:
    """Another name than the one that was signed."""
    csr = x509.load_pem_x509_csr(ReplicaKeys().request(BLUE)).public_bytes(serialization.Encoding.DER)
    changed = csr.replace(b"/fraud/blue/", b"/fraud/blua/")
    assert changed != csr
    return x509.load_der_x509_csr(changed).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (b"", "malformed"),
        (b"nothing of the kind", "malformed"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "malformed"),
        (b"x" * 10_000, "larger than any"),
        (signed_by(EC_KEY), "malformed"),
        (signed_by(EC_KEY, sans(f"crossfade://{GATEWAY}/envoy")), f"is for crossfade://{GATEWAY}/envoy"),
        (signed_by(EC_KEY, sans(BLUE.uri, f"crossfade://{GATEWAY}/envoy")), "/envoy"),
        (signed_by(ec.generate_private_key(ec.SECP384R1()), sans(BLUE.uri)), "P-256"),
        (signed_by(rsa.generate_private_key(65537, 2048), sans(BLUE.uri)), "P-256"),
        (tampered(), "not signed with the key"),
    ],
)
def test_what_is_no_request_of_a_replica_is_declined(asked: bytes, why: str) -> None:
    answer = issuer(Clock(), Witnessed()).answer(CertificateRequest(BLUE, asked))
    assert isinstance(answer, Declined)
    assert why in answer.reason


def test_what_else_a_request_asks_for_is_not_in_the_certificate() -> None:
    names_of_blue = x509.load_pem_x509_csr(ReplicaKeys().request(BLUE)).extensions
    own = names_of_blue.get_extension_for_class(x509.SubjectAlternativeName).value
    greedy = signed_by(
        EC_KEY,
        own,
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
    )
    answer = issuer(Clock(), Witnessed()).answer(CertificateRequest(BLUE, greedy))
    assert isinstance(answer, Certified)
    assert usage(answer.chain) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate(answer.chain).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# -- the gateway's own


def halfway(not_before: datetime, not_after: datetime) -> datetime:
    return not_before + (not_after - not_before) / 2


def test_it_is_renewed_at_half_of_its_life_and_given_to_whoever_asks_replicas() -> None:
    clock, secrets = Clock(), Witnessed()
    certificates = issuer(clock, secrets)
    certificates.look()
    certificates.look()
    (first,) = secrets.given
    due = halfway(first[0].facts.not_before, first[0].facts.not_after)
    assert timedelta(hours=11) < due - NOW < timedelta(hours=12)
    clock.now = due - timedelta(seconds=1)
    certificates.look()
    assert len(secrets.given) == 1
    clock.now = due
    certificates.look()
    assert len(secrets.given) == 2
    assert secrets.given[1][0].facts.not_after == due + DAY
    assert secrets.given[1][0].key != first[0].key
    assert secrets.given[1][1] == first[1]


def test_a_replica_renews_at_half_of_its_life_as_well() -> None:
    answer = issuer(Clock(), Witnessed()).answer(request_of(BLUE))
    assert isinstance(answer, Certified)
    due = halfway(answer.not_before, answer.not_after)
    assert not answer.is_due(due - timedelta(seconds=1))
    assert answer.is_due(due)


def test_where_the_clock_is_set_back_a_new_one_is_made() -> None:
    clock, secrets = Clock(), Witnessed()
    certificates = issuer(clock, secrets)
    certificates.look()
    clock.now = NOW - timedelta(hours=3)
    certificates.look()
    assert [pair.facts.not_before < clock.now for pair, _ in secrets.given] == [False, True]


def test_no_repr_shows_a_key() -> None:
    pair = internal_ca().for_envoy(NOW)
    assert "PRIVATE" not in repr(pair)
