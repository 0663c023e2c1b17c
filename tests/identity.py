"""An identity provider for tests: keys, the set that it publishes, and tokens, also such as no provider makes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://login.bank.example/"
AUDIENCE = "scoring"
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES: dict[str, tuple[ec.EllipticCurve, str]] = {
    "ES256": (ec.SECP256R1(), "P-256"),
    "ES384": (ec.SECP384R1(), "P-384"),
    "ES512": (ec.SECP521R1(), "P-521"),
}


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def part(document: Mapping[str, Any]) -> str:
    return base64url(json.dumps(document).encode())


@dataclass(frozen=True)
class SigningKey:
    """`algorithm`: RS, PS, ES with 256, 384, 512, or EdDSA."""

    id: str
    algorithm: str = "ES256"

    @cached_property
    def _private(self) -> Any:
        if self.algorithm == "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        if self.algorithm in _CURVES:
            return ec.generate_private_key(_CURVES[self.algorithm][0])
        return rsa.generate_private_key(65537, 2048)

    def jwk(self) -> dict[str, str]:
        named = {"kid": self.id, "alg": self.algorithm, "use": "sig"}
        public = self._private.public_key()
        if self.algorithm == "EdDSA":
            return named | {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
        numbers = public.public_numbers()
        if self.algorithm in _CURVES:
            size = (public.key_size + 7) // 8
            x, y = (base64url(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
            return named | {"kty": "EC", "crv": _CURVES[self.algorithm][1], "x": x, "y": y}
        n, e = (base64url(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.n, numbers.e))
        return named | {"kty": "RSA", "n": n, "e": e}

    def signature(self, content: bytes) -> bytes:
        if self.algorithm == "EdDSA":
            return bytes(self._private.sign(content))
        digest = _HASHES[self.algorithm[2:]]
        if self.algorithm in _CURVES:
            size = (self._private.key_size + 7) // 8
            numbers = decode_dss_signature(self._private.sign(content, ec.ECDSA(digest)))
            return b"".join(number.to_bytes(size, "big") for number in numbers)
        if self.algorithm.startswith("PS"):
            how: Any = padding.PSS(padding.MGF1(digest), digest.digest_size)
        else:
            how = padding.PKCS1v15()
        return bytes(self._private.sign(content, how, digest))


def key_set(*keys: SigningKey) -> str:
    return json.dumps({"keys": [key.jwk() for key in keys]})


def claims(**changed: Any) -> dict[str, Any]:
    """Of a good token for a day; None leaves a claim out."""
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "app-7", "iat": now, "exp": now + 86_400, "team": "fraud"}
    return {name: value for name, value in (usual | changed).items() if value is not None}


@dataclass(frozen=True)
class Provider:
    key: SigningKey = field(default_factory=lambda: SigningKey("k1"))

    def token(self, key: SigningKey | None = None, header: Mapping[str, Any] | None = None, **changed: Any) -> str:
        signer = key or self.key
        head = {"alg": signer.algorithm, "typ": "JWT", "kid": signer.id} | dict(header or {})
        signed = f"{part({name: value for name, value in head.items() if value is not None})}.{part(claims(**changed))}"
        return f"{signed}.{base64url(signer.signature(signed.encode()))}"


def unsigned(**changed: Any) -> str:
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims(**changed))}."


def signed_with_secret(secret: bytes, kid: str, **changed: Any) -> str:
    """HS256: what verifiers fall for that take a public key for a shared secret."""
    signed = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{part(claims(**changed))}"
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"
