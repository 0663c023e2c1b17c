"""Certificates for tests: a CA in a folder, and what it signs."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adapters.certificate_authority import Authority, issued, new_authority, pem, revocation_list
from router.domain.tls import CertificateFiles
from router.private_files import write_private


@dataclass(frozen=True, slots=True)
class TestCa:
    """Files are overwritten when a name is used again: that is how a certificate is rotated."""

    __test__ = False

    folder: Path
    authority: Authority

    @classmethod
    def in_folder(cls, folder: Path, name: str = "a test's CA") -> TestCa:
        ca = cls(folder, new_authority(name, datetime.now(UTC)))
        ca.file.write_bytes(pem(ca.authority.certificate))
        return ca

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def files(self, stem: str) -> CertificateFiles:
        return CertificateFiles(str(self.folder / f"{stem}.pem"), str(self.folder / f"{stem}.key"))

    def server(
        self, stem: str, names: Sequence[str] = ("localhost", "127.0.0.1"), *, days: int = 30
    ) -> CertificateFiles:
        return self._write(stem, issued(self.authority, names, datetime.now(UTC), days=days))

    def client(self, stem: str, names: Sequence[str], serial: int = 0) -> CertificateFiles:
        """`serial`: its number; 0: a random one."""
        return self._write(stem, issued(self.authority, names, datetime.now(UTC), is_client=True, serial=serial))

    def copy(self, source: str, target: str) -> None:
        """The certificate of one name becomes that of another, whose key stays."""
        Path(self.files(target).certificate).write_bytes(Path(self.files(source).certificate).read_bytes())

    def certificate(self, stem: str) -> str:
        return Path(self.files(stem).certificate).read_text()

    def chain(self, files: CertificateFiles) -> bytes:
        return Path(files.certificate).read_bytes()

    def key(self, files: CertificateFiles) -> bytes:
        return Path(files.key).read_bytes()

    def key_lines(self, stem: str) -> list[str]:
        """What must be seen nowhere."""
        return Path(self.files(stem).key).read_text().splitlines()[1:-1]

    def revoke(self, *stems: str) -> Path:
        """The CA's revocation list with these certificates on it."""
        revoked = [Path(self.files(stem).certificate).read_bytes() for stem in stems]
        path = self.folder / "crl.pem"
        path.write_bytes(revocation_list(self.authority, revoked, datetime.now(UTC)))
        return path

    def trusting(self, client: CertificateFiles | None = None) -> ssl.SSLContext:
        """A client that trusts this CA, and shows a certificate when it has one."""
        context = ssl.create_default_context(cafile=self.file)
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def _write(self, stem: str, pair: tuple[bytes, bytes]) -> CertificateFiles:
        files = self.files(stem)
        write_private(Path(files.key), pair[1])
        Path(files.certificate).write_bytes(pair[0])
        return files
