"""Key sets (JWKS) of identity providers: read from files, and reduced to public keys that tokens may be signed with.

What is put in force is written anew from the numbers of the keys that were understood: no secret that somebody left in
a set, and nothing that Envoy would read otherwise than it was checked here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from router.domain.errors import ModelUnavailable
from router.domain.tokens import BadKeySet, KeySet, KeySetFile, KeySetUrl, KeySource
from router.key_sets import Reading, fresh_for_s
from router.models.ports import Reply, Transport

MAX_KEY_SET_BYTES = 256 * 1024
_MAX_KEYS = 100
# What Envoy (BoringSSL) takes at the most. Routes with a set of which it takes no key would be refused.
_MIN_RSA_BITS, _MAX_RSA_BITS, _MAX_EXPONENT_BITS = 2048, 8192, 33
_MAX_ID = 256
_CURVES: Mapping[str, tuple[ec.EllipticCurve, int, str]] = {
    "P-256": (ec.SECP256R1(), 32, "ES256"),
    "P-384": (ec.SECP384R1(), 48, "ES384"),
    "P-521": (ec.SECP521R1(), 66, "ES512"),
}
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


class ProviderKeys:
    """Implements `router.key_sets.KeySetReader`, over the same way to the outside as models: proxy, CAs, limits."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def read(self, source: KeySource, mark: str) -> Reading | None:
        match source:
            case KeySetFile(path):
                return await asyncio.to_thread(_read_file, path, mark)
            case KeySetUrl(url):
                return await self._fetched(url, mark)

    async def _fetched(self, url: str, mark: str) -> Reading | None:
        headers = {"accept": "application/jwk-set+json, application/json"}
        if mark:
            headers["if-none-match"] = mark
        try:
            reply = await self._transport.request(
                "GET", url, headers=headers, max_bytes=MAX_KEY_SET_BYTES, with_credentials=False
            )
        except ModelUnavailable as error:
            raise BadKeySet(f"the keys at {url} cannot be had: {error}") from None
        if reply.status == 304 and mark:
            return None
        if reply.status != 200:
            raise BadKeySet(f"the keys at {url} cannot be had: answered with status {reply.status}")
        return Reading(parsed_key_set(url, reply.body), reply.headers.get("etag", ""), _fresh_s(reply))


def _fresh_s(reply: Reply) -> float:
    """RFC 9111 §5.2.2.1."""
    match = re.search(r"max-age=([0-9]{1,9})", reply.headers.get("cache-control", ""))
    return fresh_for_s(float(match[1]) if match else math.inf)


def _read_file(path: str, mark: str) -> Reading | None:
    try:
        with Path(path).open("rb") as file:
            found = os.fstat(file.fileno())
            now = f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"
            if now == mark:
                return None
            content = file.read(MAX_KEY_SET_BYTES + 1)
    except OSError as error:
        raise BadKeySet(f"{path} cannot be read: {str(error.strerror).lower()}") from None
    return Reading(parsed_key_set(path, content), now)


def parsed_key_set(place: str, content: bytes) -> KeySet:
    """The keys that tokens may be signed with, of a JWKS (RFC 7517 §5). Others are left out, as the RFC asks for.

    Raises `BadKeySet`, naming the place, when none is left.
    """
    if len(content) > MAX_KEY_SET_BYTES:
        raise BadKeySet(f"{place} is larger than any set of keys")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise BadKeySet(f"{place} is no JSON: it should be a JWKS, {{keys: […]}}") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise BadKeySet(f"{place} is no JWKS: it should be {{keys: […]}}")
    if len(keys) > _MAX_KEYS:
        raise BadKeySet(f"{place} has more than {_MAX_KEYS} keys")
    public = [key for key in map(_public, keys) if key is not None]
    if not public:
        raise BadKeySet(f"{place} has no key to verify tokens with: RSA of {_MIN_RSA_BITS} bits or more, EC or Ed25519")
    text = json.dumps({"keys": public}, separators=(",", ":"), sort_keys=True)
    return KeySet(text)


def _public(key: object) -> dict[str, str] | None:
    """None: it is of no use here."""
    if not isinstance(key, dict) or key.get("use", "sig") != "sig" or not _may_verify(key.get("key_ops", ["verify"])):
        return None
    readers: dict[object, Callable[[Mapping[str, Any]], tuple[dict[str, str], frozenset[str]]]] = {
        "RSA": _rsa,
        "EC": _ec,
        "OKP": _okp,
    }
    kind = key.get("kty")
    reader = readers.get(kind) if isinstance(kind, str) else None
    if reader is None:
        return None
    try:
        numbers, algorithms = reader(key)
    except (ValueError, binascii.Error):
        return None
    name, algorithm = key.get("kid", ""), key.get("alg", "")
    if not (isinstance(name, str) and name.isprintable() and len(name) <= _MAX_ID and isinstance(algorithm, str)):
        return None
    if algorithm and algorithm not in algorithms:
        return None
    named = {word: text for word, text in (("kid", name), ("alg", algorithm)) if text}
    return {"kty": str(kind), "use": "sig", **named, **numbers}


def _may_verify(operations: object) -> bool:
    return isinstance(operations, list) and "verify" in operations


def _rsa(key: Mapping[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
    modulus, exponent = _number(key, "n"), _number(key, "e")
    if not _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS or exponent.bit_length() > _MAX_EXPONENT_BITS:
        raise ValueError("a weak key, or one that takes too long")
    rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return {"n": _text(_bytes_of(modulus)), "e": _text(_bytes_of(exponent))}, _RSA_ALGORITHMS


def _ec(key: Mapping[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
    name = key.get("crv")
    if not isinstance(name, str) or name not in _CURVES:
        raise ValueError("another curve")
    curve, size, algorithm = _CURVES[name]
    x, y = _number(key, "x"), _number(key, "y")
    ec.EllipticCurvePublicNumbers(x, y, curve).public_key()  # on the curve?
    texts = {word: _text(value.to_bytes(size, "big")) for word, value in (("x", x), ("y", y))}
    return {"crv": name, **texts}, frozenset({algorithm})


def _okp(key: Mapping[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
    if key.get("crv") != "Ed25519":
        raise ValueError("another curve")
    point = _decoded(key, "x")
    ed25519.Ed25519PublicKey.from_public_bytes(point)
    return {"crv": "Ed25519", "x": _text(point)}, frozenset({"EdDSA"})


def _number(key: Mapping[str, Any], word: str) -> int:
    return int.from_bytes(_decoded(key, word), "big")


def _decoded(key: Mapping[str, Any], word: str) -> bytes:
    """RFC 7515 §2: base64url without padding."""
    text = key.get(word)
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("no number")
    return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)


def _bytes_of(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
