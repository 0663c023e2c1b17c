"""Whatever happens in whatever order: traffic stays whole and shielded, and the audit trail without gap."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.errors import Conflict, Invalid, NotFound
from router.domain.rollout import Phase
from tests.rollout_world import SPEC, Outside, World, a_life

Action = Callable[[World], Awaitable[object]]


def does(command: Callable[[World], Awaitable[object]]) -> Action:
    """An operator's command; one that does not fit the moment is refused, and changes nothing."""

    async def ask(world: World) -> None:
        with suppress(Conflict, Invalid, NotFound):
            await command(world)

    return ask


def is_so(change: Callable[[World], object]) -> Action:
    async def make(world: World) -> None:
        change(world)

    return make


def fails(share: float) -> Action:
    return is_so(lambda world: world.outside.failing.update(green=share))


ACTIONS: dict[str, Action] = {
    "start": does(lambda world: world.engine.start(SPEC, "ann")),
    "pause": does(lambda world: world.engine.pause("fraud", "ann")),
    "resume": does(lambda world: world.engine.resume("fraud", "ann")),
    "promote": does(lambda world: world.engine.promote("fraud", "ann", is_full=False)),
    "promote in full": does(lambda world: world.engine.promote("fraud", "ann", is_full=True)),
    "abort": does(lambda world: world.engine.abort("fraud", "ann")),
    "undo": does(lambda world: world.engine.undo("fraud", "ann")),
    "a second": lambda world: world.seconds(1),
    "six seconds": lambda world: world.seconds(6),
    "green fails": fails(1.0),
    "green is well": fails(0.0),
    "green is gone": is_so(lambda world: world.has_replicas(green=0)),
    "green is there": is_so(lambda world: world.has_replicas(green=1)),
    "blue is gone": is_so(lambda world: world.has_replicas(blue=0)),
    "blue is there": is_so(lambda world: world.has_replicas(blue=1)),
    "envoy is silent": is_so(lambda world: setattr(world.envoy, "is_held", True)),
    "envoy answers": is_so(lambda world: world.envoy.let_go()),
}
# A life of the control plane, and the next, and the next.
LIVES = st.lists(st.lists(st.sampled_from(sorted(ACTIONS)), max_size=12), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(LIVES)
def test_whatever_happens(lives: list[list[str]]) -> None:
    asyncio.run(check(lives))


async def check(lives: list[list[str]]) -> None:
    outside = Outside(requests_per_s=1000)
    for number, actions in enumerate(lives):
        async with a_life(outside, life=number) as world:
            for name in ["start", *actions]:
                await ACTIONS[name](world)
                await world.quiet()
                check_invariants(world)
    outside.envoy.let_go()
    async with a_life(outside, life=len(lives)) as world:  # in the end all is well, so every rollout finds its end
        outside.failing.clear()
        world.has_replicas(blue=1, green=1)
        await world.seconds(1)
        with suppress(Conflict):
            await world.engine.promote("fraud", "ann", is_full=True)
        await world.until(lambda: world.phase.is_terminal)
        await world.seconds(8)
        check_invariants(world)
        assert len(outside.traffic) == 1
        assert outside.envoy.wanted["fraud"].shield is None


def check_invariants(world: World) -> None:
    for routing in world.envoy.history:
        assert sum(percent for _, percent in routing.traffic.shares) == 100
        if len(routing.traffic.shares) == 2:
            assert routing.shield is not None, "a candidate without its shield"
    world.envoy.history.clear()
    revisions: dict[str, list[int]] = {}
    for entry in world.store.trail("fraud", 10_000):
        revisions.setdefault(entry.rollout_id, []).append(entry.what.revision)
    for rollout_id, seen in revisions.items():
        assert seen == list(range(1, len(seen) + 1)), rollout_id
    undecided = [rollout for rollout in world.engine.history("fraud") if not rollout.phase.is_decided]
    assert len(undecided) <= 1
    if not undecided and world.phase in (Phase.ROLLED_BACK, Phase.ABORTED):
        stable = world.rollout.stable
        assert world.desired.state("fraud").endpoint.traffic.as_dict() == {stable: 100}
