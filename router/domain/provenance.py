"""Where the models on this machine came from, and what they were used for: what is recorded for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from router.domain.model_tree import checked_digest


@dataclass(frozen=True, slots=True)
class Pulled:
    """A reference was resolved, and its model is in the cache.

    `ref` as written, `pinned` as its source names it for good; the words are those of `router.models.ports.Resolution`.
    """

    at: datetime
    by: str
    ref: str
    pinned: str
    revision: str
    digest: str
    version: str = ""
    lineage: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        checked_digest(self.digest)


@dataclass(frozen=True, slots=True)
class Approved:
    """A deployment may give this model traffic. `checks`: what was looked at and what was found, in order.

    `signature` as JSON: what the model takes and gives.
    """

    at: datetime
    endpoint: str
    deployment: str
    digest: str
    checks: tuple[tuple[str, str], ...] = ()
    signer: str = ""
    signature: str = ""

    def __post_init__(self) -> None:
        checked_digest(self.digest)


@dataclass(frozen=True, slots=True)
class Served:
    """From then on a deployment was to serve this model."""

    at: datetime
    endpoint: str
    deployment: str
    digest: str
    path: str

    def __post_init__(self) -> None:
        checked_digest(self.digest)


Record = Pulled | Approved | Served

KEPT = 50  # different models of every name, when records are thinned out


@dataclass(frozen=True, slots=True)
class History:
    """All records, oldest first, and what they tell."""

    records: tuple[Record, ...] = ()
    _pulls: Mapping[str, tuple[Pulled, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pulls: dict[str, tuple[Pulled, ...]] = {}
        for record in self.records:
            if isinstance(record, Pulled):
                pulls[record.digest] = (*pulls.get(record.digest, ()), record)
        object.__setattr__(self, "_pulls", pulls)

    def with_(self, record: Record) -> History:
        return History((*self.records, record))

    def pulls_of(self, digest: str) -> tuple[Pulled, ...]:
        return self._pulls.get(digest, ())

    def origin(self, digest: str, ref: str = "") -> Pulled | None:
        """The latest pull of this model; with `ref`, of it by that name."""
        return next((item for item in reversed(self.pulls_of(digest)) if ref in ("", item.ref)), None)

    def pulls_by(self, ref: str) -> tuple[Pulled, ...]:
        """Under this name, the latest first."""
        return tuple(item for item in reversed(self.records) if isinstance(item, Pulled) and item.ref == ref)

    def named_for_good(self, ref: str) -> Pulled | None:
        """The pull of a reference that always names the same, so that nobody need be asked again."""
        return next((item for item in self.pulls_by(ref) if item.pinned == ref), None)

    def approval(self, endpoint: str, deployment: str, digest: str) -> Approved | None:
        """The latest."""
        wanted = (endpoint, deployment, digest)
        approvals = (item for item in reversed(self.records) if isinstance(item, Approved))
        return next((item for item in approvals if (item.endpoint, item.deployment, item.digest) == wanted), None)

    def served(self, endpoint: str, deployment: str) -> tuple[Served, ...]:
        """What a deployment served, the latest first, each model once."""
        found: dict[str, Served] = {}
        for item in reversed(self.records):
            if isinstance(item, Served) and (item.endpoint, item.deployment) == (endpoint, deployment):
                found.setdefault(item.digest, item)
        return tuple(found.values())


def essential(records: Iterable[Record]) -> tuple[Record, ...]:
    """Those of the records (oldest first) that still tell something, in the same order: of every name and of every
    deployment the last `KEPT` different models, each once; and for what a deployment served, also where it came from
    and why it was let in, however long ago. Their number grows with the names, not with the time.

    The audit log keeps the others.
    """
    newest_first = list(records)[::-1]
    served: dict[object, Record] = {}
    approved: dict[object, Record] = {}
    pulled: dict[object, Record] = {}
    count: Counter[object] = Counter()

    def keep(found: dict[object, Record], name: tuple[str, ...], record: Record, is_wanted: bool = False) -> None:
        key = (*name, record.digest)
        if key not in found and (is_wanted or count[type(record), name] < KEPT):
            found[key] = record
            count[type(record), name] += 1

    for record in newest_first:
        if isinstance(record, Served):
            keep(served, (record.endpoint, record.deployment), record)
    digests = {record.digest for record in served.values()}
    for record in newest_first:
        match record:
            case Approved(endpoint=endpoint, deployment=deployment, digest=digest):
                keep(approved, (endpoint, deployment), record, (endpoint, deployment, digest) in served)
            case Pulled(ref=ref, digest=digest):
                keep(pulled, (ref,), record, digest in digests)
    kept = {id(record) for found in (served, approved, pulled) for record in found.values()}
    return tuple(record for record in newest_first[::-1] if id(record) in kept)


def latest_digests(pulls: Iterable[Pulled], count: int) -> frozenset[str]:
    """The last `count` different models of every reference. `pulls` oldest first."""
    kept: dict[str, list[str]] = {}
    for pull in reversed(list(pulls)):
        digests = kept.setdefault(pull.ref, [])
        if pull.digest not in digests and len(digests) < count:
            digests.append(pull.digest)
    return frozenset(digest for digests in kept.values() for digest in digests)
