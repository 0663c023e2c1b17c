"""What is seen of the world, as the domain's reports and events. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from router.admin_ports import DeploymentCondition, EndpointStatus
from router.domain.endpoint import EndpointState
from router.domain.evidence import Answers, Report
from router.domain.measurement import Totals
from router.domain.rollout import Event, Phase, Replicas, ReplicasObserved, Rollout, Split, Ticked, TrafficApplied
from router.domain.rollout_commands import wake_at
from router.rollout_ports import Pairs

_NOTHING = Totals()


@dataclass(frozen=True, slots=True)
class Seen:
    """Totals, as they stood at one look. They count since the process began, so only differences mean something."""

    stable: Totals = field(default_factory=Totals)
    candidate: Totals = field(default_factory=Totals)
    pairs: Pairs = field(default_factory=Pairs)

    @classmethod
    def of(cls, rollout: Rollout, totals: Mapping[str, Totals], pairs: Pairs) -> Seen:
        return cls(totals.get(rollout.stable, _NOTHING), totals.get(rollout.candidate, _NOTHING), pairs)


def report_between(earlier: Seen, now: Seen) -> Report:
    """What happened from one look to the next."""
    return Report(
        now.stable - earlier.stable,
        now.candidate - earlier.candidate,
        _answers_between(earlier.pairs.answers, now.pairs.answers),
        _answers_between(earlier.pairs.noise, now.pairs.noise),
    )


def split_asked(state: EndpointState) -> Split:
    return Split(state.endpoint.traffic, state.endpoint.mirror)


def split_in_force(status: EndpointStatus) -> Split:
    return Split(status.traffic, status.mirror)


def is_candidate_known(rollout: Rollout, status: EndpointStatus) -> bool:
    """Whether its replicas were found, or it is clear that there are none. While they load, it is not.

    A gateway that was started again has nobody ready for a while, which is no loss that a rollout must go back for.
    """
    conditions = {deployment.name: deployment.condition for deployment in status.deployments}
    return conditions.get(rollout.candidate) is not DeploymentCondition.LOADING


def next_event(
    rollout: Rollout, state: EndpointState, status: EndpointStatus, now: datetime, *, knows_candidate: bool = True
) -> Event | None:
    """What the rollout does not know yet. To be asked again after each event, until there is none.

    Traffic is applied when what was asked for is what the rollout asks for, and every Envoy acknowledged just that: an
    acknowledgement of the same split from before does not count, because another one may have been sent since.
    `knows_candidate`: it was known once (`is_candidate_known`) since the process began.
    """
    if rollout.phase.is_terminal:
        return None
    replicas = ReplicasObserved(
        _replicas(rollout, state, status, rollout.stable), _replicas(rollout, state, status, rollout.candidate)
    )
    is_news = (replicas.stable, replicas.candidate) != (rollout.stable_replicas, rollout.candidate_replicas)
    if is_news and (knows_candidate or not rollout.phase.is_judged):
        return replicas
    is_acknowledged = split_in_force(status) == split_asked(state) == rollout.asked and not status.error
    if is_acknowledged and status.revision == state.revision and rollout.in_force != rollout.asked:
        return TrafficApplied(rollout.asked)
    return Ticked() if is_due(rollout, now) else None


def is_due(rollout: Rollout, now: datetime) -> bool:
    """Time alone changes something now."""
    at = wake_at(rollout)
    return at is not None and at <= now


def must_be_saved(old: Rollout, new: Rollout) -> bool:
    """Whether something changed that a crash must not lose. Verdicts and replicas are simply seen again."""
    as_seen = replace(
        old, verdict=new.verdict, stable_replicas=new.stable_replicas, candidate_replicas=new.candidate_replicas
    )
    return as_seen != new


def is_compared(rollout: Rollout) -> bool:
    """Whether there are answers of both sides to the same requests: where the candidate gets copies."""
    mirrors = (rollout.asked.mirror, rollout.in_force.mirror)
    return rollout.phase.is_judged and any(mirror and mirror.deployment == rollout.candidate for mirror in mirrors)


def _replicas(rollout: Rollout, state: EndpointState, status: EndpointStatus, name: str) -> Replicas:
    """A deployment that does not exist has none, and wants none.

    One that scales by itself has enough when it has its fewest, and is left to itself in the end. If it may sleep, it
    may do so again when the rollout is decided, and answers as long as it can be started; until then it is kept awake,
    and must be, for requests that wait for it to wake up would be judged with the others.
    """
    found = next((deployment for deployment in status.deployments if deployment.name == name), None)
    deployed = state.deployments.get(name)
    if found is None or deployed is None:
        return Replicas(0, 0)
    spec = deployed.spec
    if spec.scale_settings is None:
        return Replicas(found.replicas_ready, found.replicas_wanted)
    may_sleep = spec.can_sleep and rollout.phase.is_decided and found.condition is not DeploymentCondition.FAILED
    ready = max(found.replicas_ready, spec.least_instances if may_sleep else 0)
    return Replicas(ready, 0 if rollout.phase is Phase.RETIRING else spec.least_instances)


def _answers_between(earlier: Answers, now: Answers) -> Answers:
    return Answers(now.pairs - earlier.pairs, now.disagreements - earlier.disagreements)
