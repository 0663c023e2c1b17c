"""The control plane dies before, or just after, every single write of a rollout: nothing is lost or done twice."""

from __future__ import annotations

import pytest

from router.domain.rollout import Phase
from tests.rollout_world import SPEC, MortalStore, Outside, ProcessDied, World, a_life

HEALTHY = {"green": 0.0}
FAILING = {"green": 1.0}


async def live(world: World) -> bool:
    """Start the rollout if there is none, and let time go by until it has ended or the process has died."""
    try:
        if world.desired.rollout("fraud") is None:
            await world.engine.start(SPEC, "ann")
        for _ in range(150):
            if world.phase.is_terminal or world.store.is_dead:
                break
            await world.seconds(1)
    except ProcessDied:
        return False
    return not world.store.is_dead


async def undisturbed(failing: dict[str, float]) -> tuple[World, Outside]:
    outside = Outside(failing=dict(failing))
    async with a_life(outside) as world:
        assert await live(world)
        await world.seconds(10)
    return world, outside


@pytest.mark.parametrize("does_last", [False, True], ids=["before-it-is-written", "after-it-is-written"])
@pytest.mark.parametrize(("failing", "ends"), [(HEALTHY, Phase.SUCCEEDED), (FAILING, Phase.ROLLED_BACK)])
async def test_a_crash_at_any_write_changes_nothing_of_what_comes_of_it(
    failing: dict[str, float], ends: Phase, does_last: bool
) -> None:
    undisturbed_world, reference = await undisturbed(failing)
    assert undisturbed_world.phase is ends
    assert undisturbed_world.store.writes > 10
    for dies_at in range(1, undisturbed_world.store.writes + 1):
        outside = Outside(failing=dict(failing))
        async with a_life(outside, MortalStore(outside.disk, dies_at, does_last)) as world:
            await live(world)
        async with a_life(outside, life=2) as world:
            assert await live(world), dies_at
            await world.seconds(10)
            assert world.phase is ends, dies_at
            assert outside.traffic == reference.traffic, dies_at
            trail = world.engine.trail("fraud")
            assert [entry.what.revision for entry in trail] == list(range(1, len(trail) + 1)), dies_at
            assert len({entry.rollout_id for entry in trail}) == 1, dies_at
            assert outside.envoy.wanted["fraud"].shield is None, dies_at
            weights = [routing.traffic.percent("green") for routing in outside.envoy.history]
            if ends is Phase.SUCCEEDED:
                assert weights == sorted(weights), f"traffic went back and forth: {weights}, {dies_at}"
