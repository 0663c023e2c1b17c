"""Brings together what both sides answered to the same request, in whatever order it arrives. Pure state.

*Pairs* are counted whenever both answers are there. How many copies *arrived* can be said only of times in which every
replica of both sides was watched without a gap, else a record that was missed would look like a copy that got lost.
Such a time begins `SETTLE_S` after the last gap (sampling began, a replica came or went, records fell out), so that the
records of both answers fall into it, and a copy counts as lost when stable's answer has waited `PATIENCE_S` for it.

Times are seconds on one monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from serving.answers import Answer, Answered, Failed, Key, Unanswered, record_bytes

SETTLE_S = 5.0
PATIENCE_S = 15.0
MAX_WAITING = 4096  # on each side
MAX_WAITING_BYTES = 8 * 1024 * 1024  # on each side


class Side(Enum):
    STABLE = "stable"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the same request that can be compared: stable did answer, and the candidate was able to."""

    request_id: str
    stable: Answered
    candidate: Answered | Failed


@dataclass(slots=True)
class _Waiting:
    """An answer whose counterpart has not come. `count`: how often the same request was answered meanwhile."""

    answer: Answer
    answered_s: float
    since_s: float
    count: int = 1


class Pairing:
    """`mirrored`: stable's answers in watched times whose copy arrived, or is given up; `arrived`: the former."""

    def __init__(self, now_s: float) -> None:
        self.mirrored = 0
        self.arrived = 0
        self._watched_from_s = now_s + SETTLE_S
        self._waiting = {side: _WaitingList() for side in Side}

    def gap(self, now_s: float) -> None:
        """Something may have been missed up to now."""
        self._watched_from_s = now_s + SETTLE_S

    def add(self, side: Side, answer: Answer, answered_s: float, now_s: float) -> Pair | None:
        """An answer has become known. Returns the pair that it completes, when that says something of the model."""
        other = self._waiting[_other(side)].pop(answer.key)
        if other is None:
            if self._waiting[side].add(answer, answered_s, now_s):
                self.gap(now_s)  # there was no room: older answers were given up before their time
            return None
        stable, candidate = (answer, other.answer) if side is Side.STABLE else (other.answer, answer)
        if (answered_s if side is Side.STABLE else other.answered_s) >= self._watched_from_s:
            self.mirrored += 1
            self.arrived += 1
        return _pair(stable, candidate)

    def expire(self, now_s: float) -> None:
        """Give up answers whose counterpart has not come in time."""
        for waiting in self._waiting[Side.STABLE].older_than(now_s - PATIENCE_S):
            if waiting.answered_s >= self._watched_from_s:
                self.mirrored += waiting.count
        self._waiting[Side.CANDIDATE].older_than(now_s - PATIENCE_S)

    @property
    def waiting(self) -> int:
        """Answers that are remembered, on both sides."""
        return sum(len(waiting) for waiting in self._waiting.values())


class _WaitingList:
    """By request, in order of arrival; bounded in number and bytes."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Key, _Waiting] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, answer: Answer, answered_s: float, now_s: float) -> bool:
        """Returns whether older ones had to go for it."""
        same = self._by_key.get(answer.key)
        if same is not None:
            same.count += 1
            return False
        self._by_key[answer.key] = _Waiting(answer, answered_s, now_s)
        self._bytes += record_bytes(answer)
        is_full = False
        while len(self._by_key) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            self._remove(next(iter(self._by_key)))
            is_full = True
        return is_full

    def pop(self, key: Key) -> _Waiting | None:
        """One answer to this request; another that was the same stays."""
        waiting = self._by_key.get(key)
        if waiting is None:
            return None
        waiting.count -= 1
        if not waiting.count:
            self._remove(key)
        return waiting

    def older_than(self, limit_s: float) -> list[_Waiting]:
        """Removes and returns what has waited since before `limit_s`."""
        old = []
        while self._by_key and (oldest := next(iter(self._by_key.values()))).since_s < limit_s:
            self._remove(oldest.answer.key)
            old.append(oldest)
        return old

    def _remove(self, key: Key) -> None:
        self._bytes -= record_bytes(self._by_key.pop(key).answer)


def _other(side: Side) -> Side:
    return Side.CANDIDATE if side is Side.STABLE else Side.STABLE


def _pair(stable: Answer, candidate: Answer) -> Pair | None:
    """None when stable did not answer, or the candidate had no room or time: then there is nothing to compare."""
    if not isinstance(stable.what, Answered) or isinstance(candidate.what, Unanswered):
        return None
    return Pair(stable.key.request_id, stable.what, candidate.what)
