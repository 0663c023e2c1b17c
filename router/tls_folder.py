"""`<data-dir>/tls`: the certificate authority and the server's certificate that `crossfade tls init` makes.

`crossfade up` takes them from there when it is given no others, and the command line trusts this CA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.domain.tls import CertificateFiles, ListenerTls


@dataclass(frozen=True, slots=True)
class TlsFolder:
    path: Path

    @classmethod
    def of(cls, data_dir: Path) -> TlsFolder:
        return cls(data_dir / "tls")

    @property
    def authority(self) -> Path:
        """What clients are given."""
        return self.path / "ca.pem"

    @property
    def authority_key(self) -> Path:
        return self.path / "ca.key"

    @property
    def server(self) -> CertificateFiles:
        return CertificateFiles(str(self.path / "server.pem"), str(self.path / "server.key"))

    def client(self, name: str) -> CertificateFiles:
        """The certificate of one client, for endpoints that ask for one."""
        stem = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
        return CertificateFiles(str(self.path / "clients" / f"{stem}.pem"), str(self.path / "clients" / f"{stem}.key"))

    def listener(self) -> ListenerTls | None:
        """None: nobody has made a certificate here."""
        return ListenerTls((self.server,)) if Path(self.server.certificate).exists() else None
