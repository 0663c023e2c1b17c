"""Random weight changes, deployments added, scaled and removed, all under steady load: nobody may notice."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.crossfade import ENDPOINT, Admin, Gateway, deployment
from benchmarks.payloads import Payload
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.steady import SteadyLoad

REQUESTS_PER_SECOND = 500
REQUESTS_PER_CHANGE = 200
CHANGES_PER_LIFE = 40  # within so many changes a deployment is added, another scaled up and down, the first removed
SIGMAS = 3.0
# Even a perfect splitter is outside 3σ now and then: once in 370 times. How often may it be, before chance is no
# explanation (less than once in 1,000 benchmarks)?
CHANCE = 0.001


@dataclass(slots=True)
class Splits:
    """How well observed splits fit the weights they were asked to have."""

    checked: int = 0
    outside: list[str] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)  # replies of deployments that had no traffic
    _comparisons: int = 0
    _deviation: float = 0.0
    _variance: float = 0.0

    def add(self, answered: Mapping[str, int], percents: Mapping[str, int]) -> None:
        total = sum(answered.values())
        for name in answered.keys() - {name for name, percent in percents.items() if percent}:
            self.unexpected[name] += answered[name]
        self.checked += 1
        for name, percent in sorted(percents.items())[1:]:  # the first one's count follows from the others'
            self._comparisons += 1
            share = percent / 100
            expected, variance = total * share, total * share * (1 - share)
            deviation = answered.get(name, 0) - expected
            if abs(deviation) > SIGMAS * math.sqrt(variance):
                self.outside.append(f"{name}: {answered.get(name, 0)} of {total} at {percent}%")
        # Its deviations, summed up, show a bias that a single change is too short for.
        first = min(percents)
        share = percents[first] / 100
        self._deviation += answered.get(first, 0) - total * share
        self._variance += total * share * (1 - share)

    @property
    def bias_sigmas(self) -> float:
        return self._deviation / math.sqrt(self._variance) if self._variance else 0.0

    @property
    def allowed_outside(self) -> int:
        """The largest count that chance reaches with a probability of at least `CHANCE`."""
        outside = math.erfc(SIGMAS / math.sqrt(2))
        allowed, tail = 0, 1.0
        while True:
            ways = math.comb(self._comparisons, allowed)
            tail -= ways * outside**allowed * (1 - outside) ** (self._comparisons - allowed)
            if tail < CHANCE:
                return allowed
            allowed += 1

    @property
    def are_right(self) -> bool:
        is_unbiased = abs(self.bias_sigmas) <= SIGMAS
        return not self.unexpected and len(self.outside) <= self.allowed_outside and is_unbiased


async def changes_under_load(gateway: Gateway, payload: Payload, model: Path, count: int, seed: int) -> Row:
    """The gateway has the deployments blue and green. Raises `ChangeFailed` when a change does not work."""
    dice = random.Random(seed)
    splits, lives = Splits(), 0
    async with (
        Admin(gateway) as admin,
        SteadyLoad(gateway.url, gateway.grpc_address, payload, REQUESTS_PER_SECOND) as load,
    ):
        names = ["blue", "green"]
        for number in range(count):
            match number % CHANGES_PER_LIFE:
                case 5:
                    await admin.apply([deployment(ENDPOINT, "amber", model)])
                    names = ["amber", "blue", "green"]
                case 15:
                    await admin.scale("blue", 2)
                case 25:
                    await admin.scale("blue", 1)
                case 35:
                    names = ["blue", "green"]
                    await admin.set_traffic({"blue": 50, "green": 50})
                    await admin.delete("amber")
                    lives += 1
            percents = random_percents(dice, names)
            await admin.set_traffic(percents)
            splits.add(await load.split(REQUESTS_PER_CHANGE), percents)
            if number % 10 == 9:
                say(f"  {number + 1}/{count} changes, {len(load.failures)} failed requests")
        await admin.set_traffic({"blue": 50, "green": 50})
    return _row(count, lives, load, splits)


def random_percents(dice: random.Random, names: list[str]) -> dict[str, int]:
    """Whole percents that sum to 100; one change in ten gives everything to one deployment."""
    if dice.random() < 0.1:
        return {dice.choice(names): 100}
    cuts = sorted(dice.randint(0, 100) for _ in names[1:])
    return {
        name: after - before
        for name, before, after in zip(names, [0, *cuts], [*cuts, 100], strict=True)
        if after > before
    }


def _row(count: int, lives: int, load: SteadyLoad, splits: Splits) -> Row:
    answered, failed = sum(load.answered.values()), len(load.failures)
    details: dict[str, Any] = {
        "answered": dict(load.answered),
        "failures": [f"{failure.protocol}: {failure.reason}" for failure in load.failures[:20]],
        "splits_checked": splits.checked,
        "splits_outside_3_sigma": splits.outside,
        "splits_outside_allowed_by_chance": splits.allowed_outside,
        "bias_sigmas": round(splits.bias_sigmas, 2),
        "replies_of_deployments_without_traffic": dict(splits.unexpected),
    }
    wrong = sum(splits.unexpected.values())
    split = f"{len(splits.outside)} of {splits.checked} splits outside 3σ, overall {splits.bias_sigmas:+.1f}σ"
    return Row(
        title=f"{count} random weight changes under load; {lives}× a deployment added, scaled up, scaled down, removed",
        bar="0 failed; splits within 3σ",
        crossfade=f"{failed} failed of {answered + failed}; {split}; {wrong} from a deployment without traffic",
        is_met=failed == 0 and splits.are_right,
        details=details,
    )
