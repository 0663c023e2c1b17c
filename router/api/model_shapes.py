"""The JSON of the admin API about models. Keys are only ever added: scripts read this."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from router.api.shape import Shape
from router.models.pulls import PullState


class ReferenceRequest(Shape):
    reference: str = Field(description="As in a spec's `model`.", examples=["models:/fraud@champion"])


class PullRequest(ReferenceRequest):
    only_resolve: bool = Field(default=False, description="Fetch what its source needs to say what the model is.")


class FileView(Shape):
    path: str
    size: int = Field(description="Bytes; -1: its source does not say.")
    sha256: str = Field(description="Empty: its source does not say.")


class OriginView(Shape):
    reference: str
    pinned: str = Field(description="The same for good, in its source's words.")
    version: str
    revision: str
    lineage: dict[str, str] = Field(description="What its source knows of it: run id, author, licence …")
    pulled_at: datetime
    pulled_by: str


class ResolutionView(Shape):
    reference: str
    pinned: str
    revision: str
    version: str
    lineage: dict[str, str]
    files: list[FileView]
    digest: str = Field(description="Of the model in the cache; empty when it is not there.")


class ModelView(Shape):
    digest: str
    size: int = Field(description="Bytes.")
    files: list[FileView]
    added_at: datetime
    used_at: datetime = Field(description="When somebody last looked for it.")
    origins: list[OriginView] = Field(description="Oldest first.")
    used_by: list[str] = Field(description="endpoint/deployment.")


class ModelsView(Shape):
    models: list[ModelView]


class PullView(Shape):
    id: str
    reference: str
    by: str
    started_at: datetime
    state: PullState
    reason: str = Field(description="Why it failed.")
    waiting: str = Field(description="Why nothing comes at the moment; empty: something does.")
    done_bytes: int = Field(description="What is here, with what lay here already.")
    total_bytes: int = Field(description="-1: not known.")
    fetched_bytes: int = Field(description="What this pull transferred.")
    bytes_per_s: float = Field(description="In the last seconds.")
    left_s: float = Field(description="Seconds; -1: not known.")
    digest: str = Field(description="When it is done.")
    path: str = Field(description="When it is done: what a backend is given.")


class PullsView(Shape):
    pulls: list[PullView]


class VerifiedView(Shape):
    digest: str
    is_intact: bool
    reason: str


class CollectRequest(Shape):
    keep_last: int = Field(default=2, ge=0, description="How many models of every reference stay in any case.")
    unused_for_s: float = Field(default=3600.0, ge=0, description="What somebody looked for since then stays.")


class CollectedView(Shape):
    digests: list[str]
    freed_bytes: int


class LineageView(Shape):
    """Where a deployment's model came from. Empty where that is not known."""

    digest: str
    origin: OriginView | None
    approved_at: datetime | None
    signer: str
    checks: list[list[str]] = Field(description="What was looked at before it got traffic, and what was found.")


class AskedView(Shape):
    reference: str
    answered_at: datetime | None = Field(description="When its source last answered since the control plane started.")
    trouble: str = Field(description="Why the last try failed; empty: it did not.")
    trouble_since: datetime | None
