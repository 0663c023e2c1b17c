"""`If-Match` and `ETag` over endpoint revisions (RFC 9110 §13.1.1; the contract answers 409 where the RFC has 412)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from router.api.errors import BadPrecondition

_ETAG = re.compile(r'"([0-9]{1,18})"')


def _expected_revision(if_match: Annotated[str | None, Header()] = None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        raise BadPrecondition(
            f'If-Match: {if_match[:60]} is not a revision; send the ETag of an earlier reply, like "7"'
        )
    return int(match[1])


ExpectedRevision = Annotated[int | None, Depends(_expected_revision)]


def set_etag(response: Response, revision: int) -> None:
    if revision:
        response.headers["ETag"] = f'"{revision}"'
