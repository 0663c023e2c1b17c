"""What a name may look like. Names appear in URLs, headers, metrics and file names, so the alphabet is narrow."""

from __future__ import annotations

import re

from router.domain.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

# /v2/models/stats is a route of the protocol, so no endpoint may be called that.
RESERVED_ENDPOINT_NAMES = frozenset({"stats"})


# A name in a client's certificate (SAN): a DNS name, or a URI such as spiffe://bank/app. No '=', which every subject
# has and Envoy compares where there is no SAN; no '*', which would be taken literally.
_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+~%-]{0,252}")


def checked_client_name(key: str, value: str) -> str:
    """Return `value` when it can be the name of a client in its certificate, else raise `Invalid` for `key`."""
    if not _CLIENT_NAME.fullmatch(value):
        raise Invalid(key, f"{value!r} is not a name in a certificate", "use a DNS name, or a URI: spiffe://bank/app")
    return value


def checked_name(key: str, value: str) -> str:
    """Return `value` when it is a legal name, else raise `Invalid` for `key`."""
    if not _NAME.fullmatch(value):
        raise Invalid(
            key,
            f"{value!r} is not a valid name",
            "use 1 to 63 letters, digits, '.', '_' and '-', beginning and ending with a letter or digit",
        )
    return value
