"""TLS to Tritons that run elsewhere: whom Envoy, the control plane and bridges trust there, and what they show."""

from __future__ import annotations

import ipaddress
import os.path
import re
from dataclasses import dataclass

from router.domain.errors import Invalid
from router.domain.tls import CertificateFiles

_NAME = re.compile("[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class TritonTls:
    """Paths of PEM files on the gateway's machine, of a bridge on its replicas'; what is in them is told nobody.

    `ca`: who must have signed the Tritons' certificates. `certificate` and `key`: what is shown to a Triton that asks
    for one (mTLS); empty when none does. `server_name`: the name or address that must be in the Tritons' certificates.
    `has_http`: their http_port speaks TLS as well. Triton's own cannot, so that is a proxy before it; without one, the
    deployment is reached over gRPC alone.
    """

    ca: str
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    has_http: bool = False

    def __post_init__(self) -> None:
        for key, path in (("ca", self.ca), ("certificate", self.certificate), ("key", self.key)):
            if path and not os.path.isabs(path):
                raise Invalid(f"triton.tls.{key}", f"{path[:60]!r} is a relative path", "write the absolute path")
        if not self.ca:
            raise Invalid(
                "triton.tls.ca", "is missing", "name the file of the CA that signed the Tritons' certificates"
            )
        if self.server_name and not _NAME.fullmatch(self.server_name):
            raise Invalid(
                "triton.tls.server_name", f"{self.server_name[:60]!r} is no name", "use a DNS name or an address"
            )
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise Invalid(f"triton.tls.{missing}", "is missing", "a certificate and its key go together")

    @property
    def shown(self) -> CertificateFiles | None:
        return CertificateFiles(self.certificate, self.key) if self.certificate else None

    @property
    def is_named_by_address(self) -> bool:
        """Whether `server_name` is an IP address, which is in a certificate in another place, and in no SNI."""
        try:
            ipaddress.ip_address(self.server_name)
        except ValueError:
            return False
        return True
