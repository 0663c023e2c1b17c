"""A token server as registries name one in their challenge, which signs for Debian's docker-registry."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.registries.http_server import Asked, reply

SERVICE, ISSUER = "registry of the tests", "issuer of the tests"


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class TokenServer:
    """Gives `user` (name, password) what is asked for; to anybody else nothing. `certificate`: with the key that signs.

    `asked`: each scope, with who asked.
    """

    certificate: tuple[str, str]
    user: tuple[str, str]
    lasts_s: int = 3600
    asked: list[tuple[str, str]] = field(default_factory=list)

    def token(self, repository: str, actions: list[str]) -> str:
        """https://distribution.github.io/distribution/spec/auth/jwt/"""
        certificate = x509.load_pem_x509_certificate(Path(self.certificate[0]).read_bytes())
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        now_s = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": self.user[0],
            "aud": SERVICE,
            "exp": now_s + 3600,
            "nbf": now_s - 10,
            "iat": now_s,
            "jti": str(len(self.asked)),
            "access": [{"type": "repository", "name": repository, "actions": actions}],
        }
        parts = [_url64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256", "x5c": chain}, claims)]
        key = serialization.load_pem_private_key(Path(self.certificate[1]).read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
        return ".".join([*parts, _url64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])

    async def behave(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        query = parse_qs(urlsplit(asked.target).query)
        scope = query["scope"][0]
        self.asked.append((scope, asked.headers.get("authorization", "")))
        pair = base64.b64encode(":".join(self.user).encode()).decode()
        if query["service"] != [SERVICE] or asked.headers.get("authorization") != f"Basic {pair}":
            writer.write(reply(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}'))
            return
        _, repository, actions = scope.split(":")
        said = {"token": self.token(repository, actions.split(",")), "expires_in": self.lasts_s}
        writer.write(reply(200, json.dumps(said).encode(), content_type="application/json"))
