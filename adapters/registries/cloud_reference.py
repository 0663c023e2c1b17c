"""What references into the clouds' object stores look like, and how a moment of theirs is written down.

    s3://bucket/key   gs://bucket/key   az://container/key   abfss://container@account.dfs.core.windows.net/key

A key with a slash at its end, or that is no object, is a folder: everything below it. For good are, in each store's own
words, `?versionId=…` (S3, Azure) and `#<generation>` (Google); where a store keeps no versions, `#etag=…` and, for a
folder, `#listing=<sha256>` at least name what is wanted: something else is refused then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import checked_path

_PINNED = re.compile(
    r"(?P<key>.*?)"
    r"(?:\?versionId=(?P<version>[!-~]{1,1024})|#(?P<generation>[0-9]{1,20})"
    r"|#etag=(?P<etag>[!-~]{1,300})|#listing=(?P<listing>[0-9a-f]{64}))?",
)
_BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,220}[A-Za-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_ACCOUNT_HOST = ".dfs.core.windows.net"


@dataclass(frozen=True, slots=True)
class CloudReference:
    """`provider`: s3, gs or az. `account`: Azure's, "" when the settings or the environment say it.

    At most one of `version`, `etag` and `listing` is not empty; all empty: what is there now, which may change.
    """

    provider: str
    bucket: str
    key: str
    is_folder: bool
    account: str = ""
    version: str = ""
    etag: str = ""
    listing: str = ""

    @property
    def is_pinned(self) -> bool:
        return bool(self.version or self.etag or self.listing)


def parsed(ref: ModelRef) -> CloudReference:
    """Raises `ModelUnavailable`."""
    bucket, _, rest = ref.location.partition("/")
    provider, account = ref.scheme, ""
    if ref.scheme == "abfss":
        provider = "az"
        bucket, _, host = bucket.partition("@")
        account = host.removesuffix(_ACCOUNT_HOST)
        if not host.endswith(_ACCOUNT_HOST) or not _ACCOUNT.fullmatch(account):
            raise ModelUnavailable(f"{ref}: write abfss://container@account{_ACCOUNT_HOST}/path")
    match = _PINNED.fullmatch(rest)
    if not _BUCKET.fullmatch(bucket) or match is None:
        raise ModelUnavailable(f"{ref}: write {ref.scheme}://bucket/path")
    written = match["key"]
    key = written.rstrip("/")
    try:
        if key:
            checked_path(key)
    except Invalid as error:
        raise ModelUnavailable(f"{ref}: {error}") from None
    return CloudReference(
        provider,
        bucket,
        key,
        written != key or not key,
        account,
        match["version"] or match["generation"] or "",
        match["etag"] or "",
        match["listing"] or "",
    )


def pinned(ref: ModelRef, reference: CloudReference, *, version: str = "", etag: str = "", listing: str = "") -> str:
    """`ref` for good. `parsed` reads it back."""
    bucket = ref.location.partition("/")[0]
    place = f"{ref.scheme}://{bucket}/{reference.key}"
    if listing:
        return f"{place}{'/' if reference.key else ''}#listing={listing}"
    if version:
        return f"{place}#{version}" if reference.provider == "gs" else f"{place}?versionId={version}"
    return f"{place}#etag={etag}"
