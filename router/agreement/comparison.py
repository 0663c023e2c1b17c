"""One endpoint's comparison: what to ask which replica, and what follows from its answers. Pure state.

How much is sampled adapts itself to the traffic: about `WANTED_PER_S` answers of stable a second are plenty for the
statistics, and keep the cost small on both ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from router.agreement.pairing import Pairing, Side
from router.agreement.rules import difference, rendered
from router.domain.evidence import Answers
from router.domain.routing import Replica, ReplicaState, TritonAddress
from router.rollout_ports import Difference, Pairs
from serving.answers import Answered, Failed, Repeat
from serving.sampling import Batch, Order, Sampled

LEASE_S = 10.0
WANTED_PER_S = 100.0
MAX_DIFFERENCES = 100

_LEAST_SHARE = 2.0**-16
_QUIET_ROUNDS = 10  # so many in a row with little traffic, and more of it is sampled
_ALIVE = (ReplicaState.READY, ReplicaState.DRAINING)


@dataclass(frozen=True, slots=True)
class Roles:
    endpoint: str
    stable: str
    candidate: str

    def side(self, replica: Replica) -> Side | None:
        if replica.endpoint != self.endpoint or replica.state not in _ALIVE:
            return None
        if isinstance(replica.address, TritonAddress):
            return None  # it keeps no records of its answers
        return {self.stable: Side.STABLE, self.candidate: Side.CANDIDATE}.get(replica.deployment)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a replica handed out, and when."""

    batch: Batch
    at_s: float


class Comparison:
    """`began_with`: what was counted on this endpoint before. Times are seconds on one monotonic clock."""

    def __init__(self, roles: Roles, now_s: float, began_with: Pairs | None = None) -> None:
        self.roles = roles
        self._began_s = now_s
        self._counted = began_with or Pairs()
        self._pairing = Pairing(now_s)
        self._differences: deque[Difference] = deque(maxlen=MAX_DIFFERENCES)
        self._share = 1.0
        self._handed_out: dict[str, int] = {}  # replica → the last record that it handed out
        self._heard_s: float | None = None
        self._quiet_rounds = 0

    @property
    def pairs(self) -> Pairs:
        counted, pairing = self._counted, self._pairing
        return replace(counted, mirrored=counted.mirrored + pairing.mirrored, arrived=counted.arrived + pairing.arrived)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Newest first."""
        return tuple(self._differences)

    def orders(self, replicas: Iterable[Replica]) -> dict[Replica, Order]:
        """What to ask of whom, now."""
        sides = {replica: self.roles.side(replica) for replica in replicas}
        return {
            replica: Order(self._share, LEASE_S, self._handed_out.get(replica.id, 0), side is Side.STABLE)
            for replica, side in sides.items()
            if side is not None
        }

    def heard(self, answers: Mapping[Replica, Heard | None], now_s: float, at: datetime) -> None:
        """What everybody who was asked said; None of a replica that was silent."""
        if self._may_have_missed(answers):
            self._pairing.gap(now_s)
        overflowed = False
        stable_records = 0
        for replica, heard in answers.items():
            if heard is None:
                continue
            batch = heard.batch
            overflowed |= batch.has_gap and self._handed_out.get(replica.id, 0) > 0
            self._handed_out[replica.id] = batch.last
            side = self.roles.side(replica)
            assert side is not None  # only replicas with a side are asked
            if side is Side.STABLE:
                stable_records += len(batch.records)
            for sampled in batch.records:
                self._take(side, sampled, heard.at_s, at)
        self._pairing.expire(now_s)
        self._adapt(stable_records, overflowed, now_s)
        self._handed_out = {replica.id: self._handed_out.get(replica.id, 0) for replica in answers}
        self._heard_s = now_s

    def end(self) -> None:
        """No more answers are expected: forget those that wait."""
        self._counted, self._pairing = self.pairs, Pairing(self._began_s)

    def _may_have_missed(self, answers: Mapping[Replica, Heard | None]) -> bool:
        """Not everybody who is there now was asked before and has answered without a gap."""
        return (
            {self.roles.side(replica) for replica in answers} != set(Side)
            or {replica.id for replica in answers} != self._handed_out.keys()
            or any(heard is None or heard.batch.has_gap for heard in answers.values())
        )

    def _take(self, side: Side, sampled: Sampled, now_s: float, at: datetime) -> None:
        answered_s = now_s - sampled.age_s
        if answered_s < self._began_s:
            return  # an earlier comparison's
        record = sampled.record
        if isinstance(record, Repeat):
            if side is Side.STABLE:
                reason = difference(record.first, record.second)
                self._counted = replace(self._counted, noise=_counted(self._counted.noise, bool(reason)))
            return
        pair = self._pairing.add(side, record, answered_s, now_s)
        if pair is None:
            return
        reason = difference(pair.stable, pair.candidate)
        self._counted = replace(self._counted, answers=_counted(self._counted.answers, bool(reason)))
        if reason:
            self._note(pair.request_id, at, reason, pair.stable, pair.candidate)

    def _note(self, request_id: str, at: datetime, reason: str, stable: Answered, candidate: Answered | Failed) -> None:
        self._differences.appendleft(Difference(request_id, at, reason, rendered(stable), rendered(candidate)))

    def _adapt(self, stable_records: int, overflowed: bool, now_s: float) -> None:
        if self._heard_s is None or now_s <= self._heard_s:
            return
        per_s = stable_records / (now_s - self._heard_s)
        self._quiet_rounds = self._quiet_rounds + 1 if per_s < WANTED_PER_S / 4 else 0
        share = self._share
        if per_s > 2 * WANTED_PER_S or overflowed:
            share = max(_LEAST_SHARE, share * WANTED_PER_S / max(per_s, 2 * WANTED_PER_S))
        elif self._quiet_rounds >= _QUIET_ROUNDS:
            share = min(1.0, 2 * share)
            self._quiet_rounds = 0
        if share != self._share:
            self._share = share
            self._pairing.gap(now_s)  # until everybody has the new order, one side samples what the other does not


def _counted(answers: Answers, differs: bool) -> Answers:
    return Answers(answers.pairs + 1, answers.disagreements + differs)
