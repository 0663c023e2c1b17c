"""Certificates for tests: an authority that vouches for 127.0.0.1, today or yesterday, and for clients."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Authority:
    """Its certificates are written below `folder`. `bundle`: the path of what must be trusted."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._count = 0
        own = self._builder(self._name, self._key, 1).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.bundle = str(folder / "authority.pem")
        Path(self.bundle).write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issued(self, address: str = "127.0.0.1", days_left: int = 1) -> tuple[str, str]:
        """Paths of a certificate for `address` (or a name) and of its key. `days_left` below 0: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._count += 1
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        made = self._builder(name, key, days_left)
        made = made.add_extension(x509.SubjectAlternativeName([_general_name(address)]), critical=False)
        paths = self._folder / f"{self._count}.pem", self._folder / f"{self._count}.key"
        paths[0].write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(paths[0]), str(paths[1])

    def server(self, address: str = "127.0.0.1", days_left: int = 1, asks_for_clients: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issued(address, days_left))
        if asks_for_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.bundle)
        return context

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days_left: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * _DAY)
            .not_valid_after(now + days_left * _DAY)
        )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
