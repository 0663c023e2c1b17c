"""What a name may look like. Names appear in URLs, headers, metrics and file names, so the alphabet is narrow."""

from __future__ import annotations

import re

from router.domain.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

# /v2/models/stats is a route of the protocol, so no endpoint may be called that.
RESERVED_ENDPOINT_NAMES = frozenset({"stats"})


def checked_name(key: str, value: str) -> str:
    """Return `value` when it is a legal name, else raise `Invalid` for `key`."""
    if not _NAME.fullmatch(value):
        raise Invalid(
            key,
            f"{value!r} is not a valid name",
            "use 1 to 63 letters, digits, '.', '_' and '-', beginning and ending with a letter or digit",
        )
    return value
