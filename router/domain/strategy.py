"""The recipe of a rollout: which steps it takes, in which order. What is tolerated on the way is in `policy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from router.domain.errors import Invalid

MAX_DURATION_S = 7 * 24 * 3600.0
MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class SetWeight:
    """The candidate answers `percent` of the live requests, stable the rest. Ends a mirror."""

    percent: int

    def __post_init__(self) -> None:
        _check_percent("set_weight", self.percent)

    def __str__(self) -> str:
        return f"weight {self.percent}%"


@dataclass(frozen=True, slots=True)
class SetMirror:
    """The candidate gets a copy of `percent` of the live requests, and no live traffic. 0 ends the mirror."""

    percent: int

    def __post_init__(self) -> None:
        _check_percent("set_mirror", self.percent)

    def __str__(self) -> str:
        return f"mirror {self.percent}%"


@dataclass(frozen=True, slots=True)
class UntilPromoted:
    """No clock ends it: an operator does."""


@dataclass(frozen=True, slots=True)
class ForSeconds:
    """Ends by itself."""

    duration_s: float

    def __post_init__(self) -> None:
        _check_duration("pause.duration", self.duration_s)


@dataclass(frozen=True, slots=True)
class Pause:
    """Traffic stays as it is. Verdicts still roll back meanwhile."""

    until: ForSeconds | UntilPromoted = UntilPromoted()

    def __str__(self) -> str:
        return "pause until promoted" if isinstance(self.until, UntilPromoted) else f"pause {self.until.duration_s:g} s"


@dataclass(frozen=True, slots=True)
class Analyze:
    """Goes on when the evidence says pass, `bake_s` have gone by, and at least `min_requests` reached the candidate.

    Both are counted from when the traffic before it came into force. `min_pairs` compared answers must agree as well;
    0 asks for none (a disagreement that is proven fails the candidate all the same).
    """

    bake_s: float = 60.0
    min_requests: int = 50
    min_pairs: int = 0

    def __post_init__(self) -> None:
        _check_duration("analyze.bake", self.bake_s)
        for key, amount in (("min_requests", self.min_requests), ("min_pairs", self.min_pairs)):
            if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= 1_000_000_000:
                raise Invalid(f"analyze.{key}", f"{amount!r} is not a count", "use a whole number, 0 or more")

    def __str__(self) -> str:
        return f"analyze, {self.bake_s:g} s or more"


Step = SetWeight | SetMirror | Pause | Analyze


@dataclass(frozen=True, slots=True)
class Strategy:
    """A name and the steps. Either they end with all live traffic on the candidate, or they never give it any.

    The weights only grow: the way back is a rollback, which takes no steps. A mirror comes before any weight.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise Invalid("steps", f"{len(self.steps)} steps", f"use 1 to {MAX_STEPS}")
        weight = 0
        for number, step in enumerate(self.steps):
            match step:
                case SetWeight(percent) if percent < weight:
                    raise Invalid(
                        f"steps[{number}].set_weight", f"goes back from {weight}% to {percent}%", "let the weights grow"
                    )
                case SetWeight(percent):
                    weight = percent
                case SetMirror(percent) if weight and percent:
                    raise Invalid(
                        f"steps[{number}].set_mirror",
                        f"the candidate has {weight}% of the live traffic by then",
                        "mirror before the first weight",
                    )
                case _:
                    pass
        if weight not in (0, 100):
            raise Invalid(
                "steps",
                f"end with {weight}% on the candidate",
                "end with set_weight: 100, or use no weights (a shadow)",
            )

    @property
    def moves_traffic(self) -> bool:
        """False for a shadow, which ends as it began."""
        return any(isinstance(step, SetWeight) and step.percent for step in self.steps)


CANARY_WEIGHTS = (1, 5, 10, 25, 50, 100)


def canary(
    weights: tuple[int, ...] = CANARY_WEIGHTS, mirror_percent: int = 10, analyze: Analyze | None = None
) -> Strategy:
    """A mirror first (none with 0), then ever larger weights; each must convince before the next."""
    analyze = analyze or Analyze()
    mirror: tuple[Step, ...] = (SetMirror(mirror_percent), analyze) if mirror_percent else ()
    return Strategy("canary", mirror + _stairs(weights, analyze))


def linear(step_percent: int = 10, analyze: Analyze | None = None) -> Strategy:
    """Equal steps up to 100."""
    if isinstance(step_percent, bool) or not isinstance(step_percent, int) or not 1 <= step_percent <= 100:
        raise Invalid("step_percent", f"{step_percent!r} is not a step", "use a whole number from 1 to 100")
    return Strategy("linear", _stairs((*range(step_percent, 100, step_percent), 100), analyze or Analyze()))


def all_at_once(analyze: Analyze | None = None) -> Strategy:
    """Blue/green: switch, then watch. Stable stays at full size meanwhile."""
    return Strategy("all_at_once", _stairs((100,), analyze or Analyze()))


def shadow(mirror_percent: int = 10, analyze: Analyze | None = None) -> Strategy:
    """A mirror only; ends without moving traffic."""
    return Strategy("shadow", (SetMirror(mirror_percent), analyze or Analyze()))


# What `strategy: NAME` means.
STRATEGIES: Mapping[str, Callable[[], Strategy]] = MappingProxyType(
    {"canary": canary, "linear": linear, "all_at_once": all_at_once, "shadow": shadow}
)


def named_strategy(name: str) -> Strategy:
    """Raises `Invalid` for a name that is not in `STRATEGIES`."""
    try:
        return STRATEGIES[name]()
    except KeyError:
        raise Invalid(
            "strategy", f"{name!r} is not a strategy", f"use {', '.join(STRATEGIES)}, or explicit steps"
        ) from None


def _stairs(weights: tuple[int, ...], analyze: Analyze) -> tuple[Step, ...]:
    return tuple(step for percent in weights for step in (SetWeight(percent), analyze))


def _check_percent(key: str, percent: int) -> None:
    if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:
        raise Invalid(key, f"{percent!r} is not a percent", "use a whole number from 0 to 100")


def _check_duration(key: str, duration_s: float) -> None:
    if not 0 <= duration_s <= MAX_DURATION_S:
        raise Invalid(key, f"{duration_s!r} s is out of range", "use 0s to 7d")
