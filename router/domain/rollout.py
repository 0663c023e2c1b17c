"""A rollout: the move of an endpoint's traffic from its stable deployment to a candidate. States, events, commands.

What happens when is in `rollout_transitions`; the recipe in `strategy`; what is tolerated in `policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from router.domain.analysis import Verdict
from router.domain.errors import Conflict, Invalid
from router.domain.names import checked_name
from router.domain.policy import Policy
from router.domain.strategy import SetWeight, Step, Strategy
from router.domain.traffic import Mirror, Traffic


class Phase(StrEnum):
    PENDING = "pending"  # waits until both sides are ready; nothing has moved
    PROGRESSING = "progressing"  # takes its steps
    PAUSED = "paused"  # stays where it is until somebody says otherwise; `Rollout.pause` says why
    PROMOTED = "promoted"  # done for the user; the old deployment stays at full size for a while
    RETIRING = "retiring"  # the old deployment is scaled down
    ROLLING_BACK = "rolling_back"  # returns to stable because a verdict or a loss of replicas said so
    ABORTING = "aborting"  # returns to stable because somebody said so
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def is_terminal(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.ABORTED)

    @property
    def is_decided(self) -> bool:
        """The rollout has its answer, and another one may begin (`Superseded` ends one that is not terminal yet)."""
        return self.is_terminal or self in (Phase.PROMOTED, Phase.RETIRING)

    @property
    def is_judged(self) -> bool:
        """Verdicts are wanted."""
        return self in (Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTED)


class PauseCause(StrEnum):
    OPERATOR = "operator"
    INCONCLUSIVE = "inconclusive"
    STEP = "step"


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers, and who gets copies."""

    traffic: Traffic
    mirror: Mirror | None = None

    @property
    def deployments(self) -> frozenset[str]:
        """Those that get requests of any kind."""
        return self.traffic.deployments | ({self.mirror.deployment} if self.mirror else frozenset())


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas of a deployment are ready, of how many that it should have."""

    ready: int
    wanted: int

    @property
    def is_complete(self) -> bool:
        return self.ready >= max(1, self.wanted)

    def __str__(self) -> str:
        return f"{self.ready} of {max(1, self.wanted)} replicas ready"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout, whole: everything that `advance` decides on, and nothing that can be derived from it.

    `asked` is in force only when it equals `in_force`, which changes by `TrafficApplied`; but on the way back, what was
    asked for and may have been applied is taken to be in force. `step_since` is when the present step (or phase, where
    no steps are taken) began to count. `revision` grows with every change that is told.
    """

    id: str
    endpoint: str
    stable: str
    candidate: str
    strategy: Strategy
    policy: Policy
    started_by: str
    started_at: datetime
    asked: Split
    in_force: Split
    step_since: datetime
    stable_size: int  # instances that each side must have while the rollout runs
    candidate_size: int
    phase: Phase = Phase.PENDING
    pause: PauseCause | None = None  # only while paused
    step_index: int = 0  # == len(strategy.steps): all steps are done
    reason: str = ""  # why it is in this phase, a sentence
    holding: str = ""  # why it does not go on though it should, a sentence; empty when it does
    undoes: str = ""  # the id of the rollout that this one takes back
    stable_replicas: Replicas = Replicas(0, 1)
    candidate_replicas: Replicas = Replicas(0, 1)
    verdict: Verdict | None = None  # the latest of this step
    revision: int = 1

    @property
    def step(self) -> Step | None:
        """The step that it is at; None when all are done."""
        steps = self.strategy.steps
        return steps[self.step_index] if self.step_index < len(steps) else None

    @property
    def weight_percent(self) -> int:
        """The candidate's share of the live traffic that is in force."""
        return self.in_force.traffic.percent(self.candidate)

    @property
    def mirror_percent(self) -> int:
        """The share of requests, in force, that the candidate gets a copy of."""
        mirror = self.in_force.mirror
        return mirror.percent if mirror and mirror.deployment == self.candidate else 0

    @property
    def all_on_stable(self) -> Split:
        return self.with_weight(0)

    def with_weight(self, percent: int, mirror_percent: int = 0) -> Split:
        """The split that gives the candidate so much."""
        traffic = Traffic.of({self.stable: 100 - percent, self.candidate: percent})
        return Split(traffic, Mirror(self.candidate, mirror_percent) if mirror_percent else None)

    def __str__(self) -> str:
        """One line: "progressing, step 3/14 (weight 1%), 1% in force, holding: stable has 1 of 2 replicas"."""
        step = f", step {self.step_index + 1}/{len(self.strategy.steps)} ({self.step})" if self.step else ""
        mirror = f", mirror {self.mirror_percent}%" if self.mirror_percent else ""
        holding = f", holding: {self.holding}" if self.holding else ""
        return f"{self.phase}{step}, {self.weight_percent}% in force{mirror}{holding}"


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time went by."""


@dataclass(frozen=True, slots=True)
class ReplicasObserved:
    stable: Replicas
    candidate: Replicas


@dataclass(frozen=True, slots=True)
class TrafficApplied:
    """Every Envoy acknowledged this split."""

    split: Split


@dataclass(frozen=True, slots=True)
class VerdictReached:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PauseAsked:
    by: str


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    by: str


@dataclass(frozen=True, slots=True)
class PromoteAsked:
    """Take the next step without waiting, or with `is_full` all of them."""

    by: str
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class AbortAsked:
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Superseded:
    """The old deployment is somebody else's business from now on. `reason`: what was done about it."""

    by: str
    reason: str = "another rollout was started"


Event = (
    Ticked
    | ReplicasObserved
    | TrafficApplied
    | VerdictReached
    | PauseAsked
    | ResumeAsked
    | PromoteAsked
    | AbortAsked
    | Superseded
)


@dataclass(frozen=True, slots=True)
class ApplyTraffic:
    """Make this true at the data plane, and answer with `TrafficApplied`. Idempotent."""

    split: Split
    is_shielded: bool


@dataclass(frozen=True, slots=True)
class Scale:
    """The deployment is to have so many instances. Idempotent. 0 ends the replicas, and keeps the deployment."""

    deployment: str
    instance_count: int


@dataclass(frozen=True, slots=True)
class Announce:
    """For the audit trail and whoever listens. `(rollout id, revision)` is unique: written in the same transaction as
    the rollout, it is neither lost nor doubled by a crash."""

    revision: int
    at: datetime
    by: str  # "crossfade" when nobody asked for it
    old_phase: Phase
    phase: Phase
    message: str


@dataclass(frozen=True, slots=True)
class Page(Announce):
    """An announcement that a person must see now."""


Command = ApplyTraffic | Scale


@dataclass(frozen=True, slots=True)
class Transition:
    """What follows from an event. Persist `rollout` and `announcements` together, then perform `commands`.

    `commands` are `commands_of(rollout)`: all that should be true now, not what is new, so that a control plane that
    dies in between finds them again.
    """

    rollout: Rollout
    commands: tuple[Command, ...]
    announcements: tuple[Announce, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """What somebody asks for."""

    endpoint: str
    candidate: str
    strategy: Strategy
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        checked_name("endpoint", self.endpoint)
        checked_name("to", self.candidate)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the endpoint stands when a rollout begins. `sizes`: deployment → instances that it should have."""

    in_force: Split
    sizes: Mapping[str, int]


def start(rollout_id: str, spec: RolloutSpec, standing: Standing, by: str, now: datetime) -> Rollout:
    """A rollout from whoever has all the traffic to the spec's candidate.

    Raises `Conflict` when the traffic is not all on one other deployment, `Invalid` when a side has no instances.
    """
    shares = standing.in_force.traffic.shares
    if len(shares) != 1:
        shown = " ".join(f"{name}={percent}" for name, percent in shares) or "nobody"
        raise Conflict(f"a rollout starts from one deployment that has all the traffic, and it is with {shown}")
    stable = shares[0][0]
    if stable == spec.candidate:
        raise Conflict(f"deployment {stable!r} has all the traffic already")
    for name in (stable, spec.candidate):
        if standing.sizes.get(name, 0) < 1:
            raise Invalid("to", f"deployment {name!r} has no instances", "give it an instance_count of 1 or more")
    return Rollout(
        id=rollout_id,
        endpoint=spec.endpoint,
        stable=stable,
        candidate=spec.candidate,
        strategy=spec.strategy,
        policy=spec.policy,
        started_by=by,
        started_at=now,
        asked=standing.in_force,
        in_force=standing.in_force,
        step_since=now,
        stable_size=standing.sizes[stable],
        candidate_size=standing.sizes[spec.candidate],
    )


def undo(rollout: Rollout, rollout_id: str, by: str, now: datetime) -> Rollout:
    """A rollout back to where `rollout` came from, at once. End `rollout` by `Superseded` where it is not terminal.

    The old deployment gets its size back first where it was scaled down. Raises `Conflict` when nothing was moved.
    """
    if rollout.phase not in (Phase.PROMOTED, Phase.RETIRING, Phase.SUCCEEDED) or not rollout.strategy.moves_traffic:
        raise Conflict(
            f"there is nothing to undo: rollout {rollout.id} is {rollout.phase} and moved no traffic for good"
        )
    sizes = {rollout.stable: rollout.stable_size, rollout.candidate: rollout.candidate_size}
    spec = RolloutSpec(rollout.endpoint, rollout.stable, Strategy("undo", (SetWeight(100),)), rollout.policy)
    back = start(rollout_id, spec, Standing(rollout.in_force, sizes), by, now)
    return replace(back, undoes=rollout.id, reason=f"undoes rollout {rollout.id}")
