"""What rollouts offer to the admin API, and what they need from the rest of the control plane."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from router.domain.audit import Record
from router.domain.evidence import Answers, Evidence, Measurement
from router.domain.policy import CustomMetric
from router.domain.rollout import Announce, Rollout, RolloutSpec


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit trail."""

    rollout_id: str
    endpoint: str
    what: Announce


def record_of(rollout: Rollout, what: Announce) -> Record:
    """The announcement as a line of the audit log."""
    return Record(what.at, what.by, f"rollout_{what.phase}", f"{rollout.endpoint} ({rollout.id})", what.message)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Answers to the same request that were compared so far; both counts only grow while a process lives.

    `answers`: stable's against the candidate's. `noise`: stable's against its own second answer.
    `mirrored` and `arrived`: sampled requests that were to be copied to the candidate, and that it answered.
    """

    answers: Answers = field(default_factory=Answers)
    noise: Answers = field(default_factory=Answers)
    mirrored: int = 0
    arrived: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One pair that differs, for a person to look at. `stable` and `candidate`: output name → a short rendering."""

    request_id: str
    at: datetime
    reason: str  # "top class 3 → 7", "scores differ by up to 0.12"
    stable: Mapping[str, str]
    candidate: Mapping[str, str]


class Rollouts(Protocol):
    """Every rollout of every endpoint. Each command returns when its effect is durable, not when it is in force.

    `by` names who asks. Raises `NotFound` for an endpoint or deployment that does not exist or that has had no
    rollout, `Conflict` for a command that does not fit the rollout's phase or a second rollout, `Invalid` for one that
    cannot begin.
    """

    async def start(self, spec: RolloutSpec, by: str) -> Rollout: ...

    async def pause(self, endpoint: str, by: str) -> Rollout: ...

    async def resume(self, endpoint: str, by: str) -> Rollout: ...

    async def promote(self, endpoint: str, by: str, *, is_full: bool) -> Rollout: ...

    async def abort(self, endpoint: str, by: str, reason: str = "") -> Rollout: ...

    async def undo(self, endpoint: str, by: str) -> Rollout:
        """Back to the deployment that had the traffic before, at once: a new rollout."""

    def latest(self, endpoint: str) -> Rollout:
        """The endpoint's present or last rollout."""

    def history(self, endpoint: str) -> tuple[Rollout, ...]:
        """All that are remembered, the latest first."""

    def trail(self, endpoint: str, limit: int = 1000) -> tuple[Entry, ...]:
        """The audit trail, oldest first."""

    async def changed(self, endpoint: str, seen: Rollout, timeout_s: float) -> Rollout:
        """The latest rollout, at once when it differs from `seen`, else when it does or the time is over."""


class MakesWay(Protocol):
    """Ends a rollout that a change made by hand would cross."""

    async def make_way(self, endpoint: str, by: str) -> None:
        """Returns when the endpoint's rollout moves no traffic any more.

        One that is decided ends as it is; any other is aborted, and has gone back. Raises `Conflict` when it cannot.
        """


class RolloutStore(Protocol):
    """Durable rollouts. Every method is one transaction; raises `StoreFailed`."""

    def load_rollouts(self) -> tuple[tuple[Rollout, Evidence], ...]:
        """All that are remembered, oldest first."""

    def save_rollout(self, rollout: Rollout, evidence: Evidence, entries: Collection[Announce]) -> None:
        """All or nothing. An announcement that is there already is not written again; of a new one, everybody whom the
        rollout's policy names is to be told (see `Outbox`).

        A rollout of an endpoint that was deleted meanwhile is not written: its rollouts went with it.
        """

    def trail(self, endpoint: str, limit: int) -> tuple[Entry, ...]:
        """The last `limit` entries, oldest first."""


class Comparer(Protocol):
    """Compares what stable and candidate answer to the same requests."""

    def compare(self, endpoint: str, stable: str, candidate: str) -> None:
        """Take samples from now on. Idempotent."""

    def stop(self, endpoint: str) -> None: ...

    def pairs(self, endpoint: str) -> Pairs: ...

    def differences(self, endpoint: str, limit: int) -> tuple[Difference, ...]:
        """The latest pairs that differ, newest first."""


class Measures(Protocol):
    """Takes samples of the user's own metrics."""

    async def measure(self, rollout: Rollout, metric: CustomMetric) -> Measurement:
        """Never raises: what goes wrong is the measurement's `error`."""


class Outbox(Protocol):
    """Who has to be told of what, durably. Every method is one transaction; raises `StoreFailed`."""

    def untold(self) -> tuple[tuple[str, Entry], ...]:
        """URLs and what they were not told yet, in the order in which it happened."""

    def settle(self, url: str, entry: Entry) -> None:
        """It was told, or nobody will try again."""


class Listeners(Protocol):
    """Who is told of every announcement (webhooks)."""

    def tell(self, entry: Entry) -> None:
        """Must return at once; what cannot be delivered is retried for a while, then said in the event log."""
