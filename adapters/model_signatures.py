"""Verifies signatures of models with plain public keys: the only place that touches `cryptography`.

ECDSA on P-256, P-384 and P-521 is what OpenSSF Model Signing makes; Ed25519 and RSA-PSS are the other two that DSSE
signers use. An RSA key is taken from 2,048 bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from router.domain.errors import Invalid
from router.models.signing import NotSigned, Signed, envelope_of, files_of, key_name

_MIN_RSA_BITS = 2048
_CURVES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class _Signer:
    name: str
    key: PublicKey


class KeyVerifier:
    """Implements `Verifier`. Reads the PEM files now; raises `Invalid` for one that is no public key."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._signers = tuple(_signer(path) for path in keys)

    def verify(self, bundle: bytes) -> Signed:
        """Raises `NotSigned`."""
        envelope = envelope_of(bundle)
        for signer in self._signers:
            if any(_is_signed(signer.key, signature, envelope.signed_bytes) for signature in envelope.signatures):
                return Signed(signer.name, files_of(envelope.payload))
        raise NotSigned("it is by none of the keys that may sign")


def _signer(path: str) -> _Signer:
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise Invalid("signatures.keys", f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Invalid("signatures.keys", f"{path} is not a public key in PEM", "begin with BEGIN PUBLIC KEY") from None
    if not isinstance(key, PublicKey):
        raise Invalid("signatures.keys", f"{path} is of a kind that signs no models", "use an ECDSA key on P-256")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise Invalid("signatures.keys", f"{path} is on the curve {key.curve.name}", "use P-256, P-384 or P-521")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise Invalid("signatures.keys", f"{path} has {key.key_size} bits", f"use {_MIN_RSA_BITS} or more")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _Signer(key_name(path, hashlib.sha256(pem).hexdigest()), key)


def _is_signed(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, data, ec.ECDSA(_CURVES[key.curve.name]))
            case ed25519.Ed25519PublicKey():
                key.verify(signature, data)
            case rsa.RSAPublicKey():
                sha256 = hashes.SHA256()
                key.verify(signature, data, padding.PSS(padding.MGF1(sha256), padding.PSS.AUTO), sha256)
    except InvalidSignature:
        return False
    return True
