"""The life of the Triton that a replica runs, as a state machine. Pure: `now_s` is an argument, on a monotonic clock.

    DOWN ──Started──► LOADING ──Answered──► READY
     ▲                   │  too long           │  silent or not ready, several times in a row
     └──Ended── HUNG ◄───┴─────────────────────┘
     └──Ended── from any of them: killed, crashed, or killed by us because it hung

Whoever is DOWN is started again at `again_at_s`: at once after a long life, later and later after short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

PROBE_EVERY_S: Final = 1.0
# Envoy's own health checks keep requests away from one that hangs after a second or two, so there is time to be sure:
# a Triton that merely has no processor for a while would lose everything that is under way.
PATIENCE: Final = 4  # probes in a row, each of which waits for some seconds
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_LONG_LIFE_S: Final = 60.0


class Phase(StrEnum):
    DOWN = "down"
    LOADING = "loading"
    READY = "ready"
    HUNG = "hung"  # to be killed


@dataclass(frozen=True, slots=True)
class Started:
    """A process runs."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Its model is ready."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not answer in time, or says that the model is not ready."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The process is gone."""

    reason: str


Event = Started | Answered | Failed | Ended


@dataclass(frozen=True, slots=True)
class Life:
    """`since_s`: when it got into this phase. `failures`: probes in a row. `short`: lives in a row that were short.

    `reason`: why it is not ready, for operators.
    """

    start_timeout_s: float
    phase: Phase = Phase.DOWN
    since_s: float = 0.0
    failures: int = 0
    short: int = 0
    reason: str = ""

    @property
    def again_at_s(self) -> float:
        """When the next process may be started. Means something only while it is DOWN."""
        if self.short == 0:
            return self.since_s
        return self.since_s + min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self.short - 1, 16))


def follow(life: Life, event: Event, now_s: float) -> Life:
    """The next state. Raises `ValueError` for what cannot happen in this phase."""
    step = TRANSITIONS[life.phase].get(type(event))
    if step is None:
        raise ValueError(f"{type(event).__name__} cannot happen to a Triton that is {life.phase}")
    after: Life = step(life, event, now_s)
    return after


def _started(life: Life, _: Started, now_s: float) -> Life:
    return replace(life, phase=Phase.LOADING, since_s=now_s, failures=0)


def _loaded(life: Life, _: Answered, now_s: float) -> Life:
    return replace(life, phase=Phase.READY, since_s=now_s, failures=0, reason="")


def _late(life: Life, event: Failed, now_s: float) -> Life:
    if now_s - life.since_s < life.start_timeout_s:
        return life
    reason = (
        f"Triton did not load the model within {life.start_timeout_s:.0f} s: {event.reason}; if it needs longer, raise "
        "triton.start_timeout_s"
    )
    return replace(life, phase=Phase.HUNG, reason=reason)


def _well(life: Life, _: Answered, now_s: float) -> Life:
    return replace(life, failures=0)


def _unwell(life: Life, event: Failed, now_s: float) -> Life:
    failures = life.failures + 1
    if failures < PATIENCE:
        return replace(life, failures=failures)
    # `since_s` stays: how long it was well decides how soon it is started again.
    return replace(life, phase=Phase.HUNG, failures=failures, reason=f"Triton is started again: {event.reason}")


def _ended_early(life: Life, event: Ended, now_s: float) -> Life:
    return replace(life, phase=Phase.DOWN, since_s=now_s, short=life.short + 1, reason=event.reason)


def _ended(life: Life, event: Ended, now_s: float) -> Life:
    short = 0 if now_s - life.since_s >= _LONG_LIFE_S else life.short + 1
    return replace(life, phase=Phase.DOWN, since_s=now_s, short=short, reason=event.reason)


def _killed(life: Life, _: Ended, now_s: float) -> Life:
    """Its last words are ours."""
    short = 0 if life.failures and now_s - life.since_s >= _LONG_LIFE_S else life.short + 1
    return replace(life, phase=Phase.DOWN, since_s=now_s, short=short)


Step = Callable[[Life, Any, float], Life]

TRANSITIONS: Mapping[Phase, Mapping[type, Step]] = MappingProxyType(
    {
        Phase.DOWN: {Started: _started},
        Phase.LOADING: {Answered: _loaded, Failed: _late, Ended: _ended_early},
        Phase.READY: {Answered: _well, Failed: _unwell, Ended: _ended},
        Phase.HUNG: {Ended: _killed},
    }
)
