"""What the pulling of models needs from the outside world: sources, their transport, the check before traffic."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.domain.deployment import Deployment
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import ModelTree
from serving.signature import Signature


class SourceUnavailable(ModelUnavailable):
    """The source cannot say now: no connection, 429, 5xx, a broken link. Asking again later may help.

    `retry_after_s`: what it asked for, 0 when it did not.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AccessDenied(ModelUnavailable):
    """401, 403, or a host that may not be asked. The message names the host, and where to give a secret."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the source lists it, before anything is fetched.

    `size` in bytes, -1 when the source does not say; `sha256` as the source vouches for it, "" when it does not;
    `locator` is for the source alone. `is_spooled`: the source has it in a file of this machine, or will have, and sees
    to the room for that: it is moved from there, and takes no more.
    """

    path: str
    size: int
    sha256: str
    locator: str
    is_spooled: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """A reference at one moment: what it names for good.

    `pinned`: the immutable reference in the source's own words (oci://host/repo@sha256:…, models:/name/3, hf://…@commit).
    `revision`: changes exactly when the model does; compared for equality only.
    `version`: what the source calls this version, "" when it has no word for it.
    `lineage`: what is known of its origin (run_id, author, created, licence …), for people and the audit log.
    """

    ref: ModelRef
    pinned: str
    revision: str
    files: tuple[RemoteFile, ...]
    version: str = ""
    lineage: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Download:
    """`starts_at`: 0 when the source cannot begin in the middle, whatever was asked. `chunks`: of at most some MB.

    `path`: a file of this machine that has all of it from the beginning, and that nobody else needs: it may be moved
    away instead of being read. "" where there is none.
    """

    starts_at: int
    chunks: AsyncIterator[bytes]
    path: str = ""


class Source(Protocol):
    """A place where models come from: one implementation for each kind of registry."""

    async def resolve(self, ref: ModelRef) -> Resolution:
        """Raises `ModelUnavailable`: no such model, `AccessDenied`, `SourceUnavailable`, or an answer that is none."""

    def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AbstractAsyncContextManager[Download]:
        """The file's bytes from `offset` on. Who reads resumes, counts, hashes and bounds.

        Raises `SourceUnavailable` when the link breaks (also between chunks), and when the file is another one now.
        """

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        """Whether a mutable reference names something else than `revision` by now; as cheap as the source allows."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read whole. Header names are in lower case. `url`: who answered, without what may be secret."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises `ModelUnavailable` when the body is not JSON, such as the login page of a proxy."""
        try:
            return json.loads(self.body)
        except ValueError:
            kind = self.headers.get("content-type", "").partition(";")[0][:60] or "something"
            hint = "is it the login page of a proxy, or another server than expected?"
            raise ModelUnavailable(
                f"{self.url}: answered {self.status} with {kind!r} instead of JSON; {hint}"
            ) from None


class Transport(Protocol):
    """HTTP to the outside. Knows proxies, certificates, credentials and which hosts may be asked at all; retries what
    is worth it; bounds everything. Redirects are followed to allowed hosts only, without credentials across hosts.

    Every method raises `SourceUnavailable`, or `AccessDenied` for a host that is not allowed.
    """

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        max_bytes: int = 4 * 1024 * 1024,
        with_credentials: bool = True,
    ) -> Reply:
        """`content` is sent as JSON. Any status is returned, 429 and 5xx after some patience."""

    def stream(
        self, url: str, *, offset: int = 0, if_range: str = "", headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Download]:
        """GET, with Range from `offset` (guarded by If-Range when given). Raises for any status but 200 and 206:
        401, 403 as `AccessDenied`, 404 and other 4xx as `ModelUnavailable`, the rest as `SourceUnavailable`."""

    async def credentials(self, host: str) -> Credentials:
        """What the operator gave for `host` (with its port), for sources that sign or exchange tokens themselves."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """All empty: none were given."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """Bounds for what comes from outside."""

    max_files: int = 10_000
    max_bytes: int = 200 * 1024**3


class AdmissionRefused(ModelUnavailable):
    """A check said no. The message says which, what was found, and what to do."""

    def __init__(self, check: str, found: str, to_do: str) -> None:
        super().__init__(f"{check}: {found}; {to_do}")
        self.check = check
        self.found = found
        self.to_do = to_do


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model in the cache that wants traffic.

    `folder` holds exactly the files of `tree`. `live`: what the deployment that answers now takes and gives, None when
    nobody answers. `golden`: files with a V2 request and the answer that is expected.
    """

    folder: str
    tree: ModelTree
    pinned: str
    deployment: Deployment
    live: Signature | None = None
    is_signature_change_allowed: bool = False
    golden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Admitted:
    """`checks`: what was looked at and what was found, in order, for people and the audit log."""

    checks: tuple[tuple[str, str], ...]
    signature: Signature
    signer: str = ""


class Admission(Protocol):
    """The gate before traffic."""

    async def admit(self, candidate: Candidate) -> Admitted:
        """Raises `AdmissionRefused`. Takes seconds: the model runs once, in a process of its own that may be killed."""
