"""What the statistics promise, shown on simulated rollouts that are judged at every look. Seeded: no chance is left."""

import pytest

from router.domain.policy import Policy
from router.domain.rollout import PauseCause, Phase
from router.domain.strategy import all_at_once
from tests.simulated_rollout import Bursts, World, lognormal, run

HEALTHY = {  # 500 in all
    "much traffic": (170, World(look_s=5)),
    "much traffic, bursts": (170, World(requests_per_s=3000, bursts=Bursts(0.01, 0.1), look_s=5)),
    "little traffic": (80, World(requests_per_s=20, stable_errors=0.005, candidate_errors=0.005, look_s=20)),
    "little traffic, bursts": (80, World(requests_per_s=20, bursts=Bursts(0.01, 0.1), look_s=20)),
}


def test_of_500_healthy_candidates_not_more_than_alpha_are_rolled_back() -> None:
    """Were harm proven against stable in the same block alone, bursts at much traffic would roll back one in eight."""
    phases = {name: [run(world, seed).phase for seed in range(count)] for name, (count, world) in HEALTHY.items()}
    rolled_back = {name: ended.count(Phase.ROLLED_BACK) for name, ended in phases.items()}
    assert sum(map(len, phases.values())) == 500
    assert sum(rolled_back.values()) <= Policy().alpha * 500, rolled_back
    assert set(phases["much traffic"]) == {Phase.PROMOTED}, "and with enough traffic they arrive, unattended"


@pytest.mark.parametrize(("error_rate", "within_s"), [(1.0, 3), (0.05, 60), (0.01, 180)])
@pytest.mark.parametrize("seed", range(5))
def test_a_failing_candidate_is_rolled_back_before_it_gets_live_traffic(
    error_rate: float, within_s: float, seed: int
) -> None:
    outcome = run(World(candidate_errors=error_rate, look_s=1), seed)
    assert outcome.phase is Phase.ROLLED_BACK
    assert outcome.seconds <= within_s
    assert outcome.evidence.exposure_s == 0


@pytest.mark.parametrize("error_rate", [1.0, 0.05, 0.01])
def test_a_switch_at_once_is_watched_with_stables_past(error_rate: float) -> None:
    outcome = run(World(candidate_errors=error_rate, strategy=all_at_once(), look_s=1), 1)
    assert outcome.phase is Phase.ROLLED_BACK
    assert outcome.rollout.reason
    assert outcome.seconds <= 180


@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_three_times_slower_is_rolled_back_by_its_latency(seed: int) -> None:
    outcome = run(World(candidate_ms=lognormal(60)), seed)
    assert outcome.phase is Phase.ROLLED_BACK
    assert "latency" in outcome.rollout.reason


@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_that_is_three_times_slower_in_its_tail_alone_is_rolled_back(seed: int) -> None:
    """Its p50 is stable's, its p95 is 135 ms where stable's is 45 ms."""
    tail = tuple(0.88 * usual + 0.12 * slow for usual, slow in zip(lognormal(20), lognormal(140, 0.2), strict=True))
    assert run(World(candidate_ms=tail), seed).phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_five_percent_slower_arrives(seed: int) -> None:
    assert run(World(candidate_ms=lognormal(21)), seed).phase is Phase.PROMOTED


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_that_is_worse_within_the_margin_is_not_rolled_back(seed: int) -> None:
    assert run(World(candidate_errors=0.002), seed).phase is Phase.PROMOTED


def test_without_traffic_nothing_passes_and_nothing_fails() -> None:
    outcome = run(World(requests_per_s=0, look_s=60), 1)
    assert (outcome.phase, outcome.rollout.pause) == (Phase.PAUSED, PauseCause.INCONCLUSIVE)
    assert "none arrive at present" in outcome.rollout.reason


@pytest.mark.parametrize("misrouted", [0.3, 3.0])
def test_a_wrong_split_voids_the_analysis_and_not_the_candidate(misrouted: float) -> None:
    outcome = run(World(misrouted=misrouted, look_s=5), 1)
    assert (outcome.phase, outcome.rollout.pause) == (Phase.PAUSED, PauseCause.INCONCLUSIVE)
    assert "look at the routing" in outcome.rollout.reason
