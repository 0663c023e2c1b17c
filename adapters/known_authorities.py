"""Which CAs for clients were trusted while this gateway's Envoys have run, in a file: they outlive a control plane."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from router.domain.tls import BadCertificate
from router.private_files import write_private

log = logging.getLogger(__name__)


class KnownAuthorities:
    """Implements `router.xds.doorkeeper.Memory`. `path`: of a folder that a gateway has anew with every start."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self) -> frozenset[bytes]:
        """Raises `BadCertificate`: with nothing known instead, CAs that were taken out would let somebody in."""
        try:
            found = x509.load_pem_x509_certificates(self._path.read_bytes())
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError):
            raise BadCertificate(f"{self._path} is broken: end the gateway and start it again") from None
        return frozenset(one.public_bytes(Encoding.DER) for one in found)

    def keep(self, authorities: Collection[bytes]) -> None:
        """Where it cannot be written, what is in force counts all the same, until this process ends."""
        pem = b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in sorted(authorities))
        try:
            write_private(self._path, pem)
        except OSError as error:
            log.error("CAs not kept", extra={"path": str(self._path), "reason": str(error)})
