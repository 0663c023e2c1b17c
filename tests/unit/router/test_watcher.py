"""The watcher beside the real engine and operations: an alias moves, and what comes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.domain.errors import Conflict, NotFound
from router.domain.rollout import Phase
from router.domain.watching import Consent, Current, Moved, Ready, Rolling, Stopped, Watch, WatchPolicy
from router.domain.window import Window
from router.models.ports import SourceUnavailable
from tests.fakes import NOON
from tests.rollout_world import SPEC, MortalStore, ProcessDied
from tests.watch_world import RECIPE, URL, WatchedOutside, WatchedWorld, a_watched_life, model

ANN = Consent("ann")


def is_served(world: WatchedWorld, number: int) -> bool:
    """By one deployment that has all the traffic, with nothing under way any more."""
    rollout = world.desired.rollout("fraud")
    is_over = rollout is not None and rollout.phase.is_terminal
    return is_over and len(world.traffic) == 1 and world.serving == model(number).sha256


def watched_by(policy: WatchPolicy, window: Window | None = None) -> WatchedOutside:
    return WatchedOutside(watch=Watch(policy, every_s=5, window=window, rollout=RECIPE))


async def test_an_alias_that_moves_is_rolled_out_from_blue_to_green_and_back_to_blue() -> None:
    outside = WatchedOutside()
    async with a_watched_life(outside) as world:
        await world.until(lambda: world.stage == Current())
        for number, colour in ((2, "green"), (3, "blue"), (4, "green")):
            world.registry.names = number
            await world.until(lambda number=number: is_served(world, number))
            assert world.traffic == {colour: 100}
            await world.until(lambda: world.stage == Current())
            spec = world.desired.state("fraud").deployment(colour).spec
            assert (str(spec.model), spec.model_version, spec.instance_count) == (
                "models:/fraud@champion",
                str(number),
                1,
            )
            assert world.rollout.started_by == "crossfade"
            assert world.rollout.policy == RECIPE.policy
        assert [notice.urls for notice in world.heard.notices] == [(URL,)] * len(world.heard.notices)
        kinds = [notice.news.kind for notice in world.heard.notices]
        assert kinds == ["model_moved", "model_ready", "model_rolling", "model_in_service"] * 3


async def test_a_bad_model_is_rolled_back_and_not_tried_again() -> None:
    outside = WatchedOutside(failing={"green": 1.0})
    async with a_watched_life(outside) as world:
        await world.until(lambda: world.stage == Current())
        world.registry.names = 2
        await world.until(lambda: isinstance(world.stage, Stopped))
        assert world.phase is Phase.ROLLED_BACK
        await world.seconds(60)
        assert len(world.desired.rollouts("fraud")) == 1
        assert world.serving == model(1).sha256
        outside.failing.clear()
        world.registry.names = 3  # the one that is trained next
        await world.until(lambda: is_served(world, 3))
        assert world.traffic == {"green": 100}


async def test_an_operator_s_abort_counts_as_not_by_itself_again_until_somebody_accepts() -> None:
    async with a_watched_life(WatchedOutside(requests_per_s=0)) as world:
        await world.until(lambda: world.stage == Current())
        world.registry.names = 2
        await world.until(lambda: isinstance(world.stage, Rolling))
        await world.engine.abort("fraud", "ann", "not today")
        await world.until(lambda: isinstance(world.stage, Stopped))
        bar = world.watcher.standing("fraud").watched.barred[0]
        assert "aborted by ann: not today" in bar.reason
        await world.seconds(30)
        assert len(world.desired.rollouts("fraud")) == 1
        world.outside.requests_per_s = 3000
        await world.watcher.accept("fraud", ANN)
        await world.until(lambda: is_served(world, 2))
        assert world.rollout.started_by == "ann"


async def test_an_undo_is_not_undone() -> None:
    async with a_watched_life(WatchedOutside()) as world:
        await world.until(lambda: world.stage == Current())
        world.registry.names = 2
        await world.until(lambda: is_served(world, 2) and world.stage == Current())
        await world.engine.undo("fraud", "ann")
        await world.until(lambda: is_served(world, 1) and isinstance(world.stage, Stopped))
        await world.seconds(30)
        assert len(world.desired.rollouts("fraud")) == 2


async def test_what_the_checks_refuse_never_becomes_a_deployment() -> None:
    outside = WatchedOutside()
    outside.registry.bad = {2}
    async with a_watched_life(outside) as world:
        world.registry.names = 2
        await world.until(lambda: isinstance(world.stage, Stopped))
        await world.seconds(60)
        assert len(world.registry.wanted) == 1
        assert set(world.desired.state("fraud").deployments) == {"blue"}
        assert any("a Loop of 2^62 rounds" in event.message for event in world.events.after(0))


async def test_with_manual_a_proposal_waits_for_a_yes() -> None:
    async with a_watched_life(watched_by(WatchPolicy.MANUAL)) as world:
        await world.until(lambda: world.stage == Current())
        world.registry.names = 2
        await world.until(lambda: isinstance(world.stage, Ready))
        await world.seconds(30)
        assert world.desired.rollout("fraud") is None
        await world.watcher.accept("fraud", ANN)
        await world.until(lambda: is_served(world, 2))


async def test_with_notify_nothing_is_fetched() -> None:
    async with a_watched_life(watched_by(WatchPolicy.NOTIFY)) as world:
        await world.until(lambda: world.stage == Current())
        world.registry.names = 2
        await world.until(lambda: bool(world.heard.notices))
        await world.seconds(30)
        assert world.registry.wanted == []
        assert [notice.news.kind for notice in world.heard.notices] == ["model_moved"]


async def test_outside_its_window_a_model_waits() -> None:
    tomorrow = Window(frozenset({(NOON.weekday() + 1) % 7}), 0, 24 * 60)
    outside = watched_by(WatchPolicy.AUTO, tomorrow)
    async with a_watched_life(outside) as world:
        world.registry.names = 2
        await world.until(lambda: isinstance(world.stage, Ready))
        await world.seconds(30)
        assert "waits for its window" in world.watcher.standing("fraud").waits_for
        world.clock.advance(86_400)
        await world.until(lambda: is_served(world, 2))


async def test_a_rollout_of_an_operator_is_waited_for() -> None:
    async with a_watched_life(WatchedOutside(requests_per_s=0)) as world:
        await world.until(lambda: world.stage == Current())
        by_hand = replace(world.desired.state("fraud").deployment("blue").spec, name="v9")
        await world.operations.deploy(by_hand, model(9), by="ann")
        await world.engine.start(replace(SPEC, candidate="v9"), "ann")
        world.registry.names = 2
        await world.until(lambda: isinstance(world.stage, Moved))
        await world.seconds(30)
        assert len(world.desired.rollouts("fraud")) == 1
        assert "no rollout is under way" in world.watcher.standing("fraud").waits_for
        await world.engine.abort("fraud", "ann")
        world.outside.requests_per_s = 3000
        await world.until(lambda: is_served(world, 2))


async def test_a_registry_that_is_down_is_told_and_touches_nothing_that_runs() -> None:
    outside = WatchedOutside()
    async with a_watched_life(outside) as world:
        await world.until(lambda: world.stage == Current())
        world.registry.trouble = SourceUnavailable("registry: 429", retry_after_s=40)
        await world.until(lambda: "watch_failed" in world.kinds)
        asked = world.registry.asked
        await world.seconds(38)
        assert world.registry.asked == asked, "it asked to be left alone"
        standing = world.watcher.standing("fraud")
        assert standing.staleness_s is not None
        assert standing.staleness_s > 38
        assert standing.watched.trouble == "registry: 429"
        assert world.traffic == {"blue": 100}
        world.registry.trouble = RuntimeError("a mistake in a source")
        await world.seconds(60)
        world.registry.trouble = None
        world.registry.names = 2
        await world.until(lambda: is_served(world, 2))
        assert "watch_recovered" in world.kinds or "model_moved" in world.kinds


async def test_looks_that_find_nothing_new_are_saved_now_and_then() -> None:
    async with a_watched_life(WatchedOutside()) as world:
        await world.until(lambda: world.stage == Current())
        await world.seconds(20)
        writes, asked = world.store.writes, world.registry.asked
        await world.seconds(60)
        assert world.registry.asked > asked + 5
        assert world.store.writes == writes


async def test_a_fetch_over_a_bad_line_is_tried_again() -> None:
    outside = WatchedOutside()
    outside.registry.link_trouble = SourceUnavailable("the link broke")
    async with a_watched_life(outside) as world:
        world.registry.names = 2
        await world.until(lambda: len(world.registry.wanted) >= 2)
        world.registry.link_trouble = None
        await world.until(lambda: is_served(world, 2))


async def test_a_deployment_that_somebody_may_miss_is_not_overwritten() -> None:
    async with a_watched_life(WatchedOutside()) as world:
        await world.until(lambda: world.stage == Current())
        blue = world.desired.state("fraud").deployment("blue").spec
        own = replace(blue, name="green", model=type(blue.model).parse("file:/srv/mine.onnx"))
        await world.operations.deploy(own, model(7), by="ann")
        world.registry.names = 2
        await world.until(lambda: "would be overwritten" in str(world.events.after(0)))
        assert world.desired.state("fraud").deployment("green").model == model(7)


async def test_what_is_not_watched_cannot_be_accepted() -> None:
    async with a_watched_life(WatchedOutside()) as world:
        await world.until(lambda: world.stage == Current())
        with pytest.raises(Conflict, match="in service already"):
            await world.watcher.accept("fraud", ANN)
        with pytest.raises(NotFound):
            await world.watcher.accept("froud", ANN)
        await world.operations.delete_endpoint("fraud", is_forced=True)
        with pytest.raises(NotFound):
            world.watcher.standing("fraud")


@pytest.mark.parametrize("does_last", [False, True], ids=["before-it-is-written", "after-it-is-written"])
@pytest.mark.parametrize("failing", [{}, {"green": 1.0}], ids=["good", "bad"])
async def test_a_crash_at_any_write_begins_no_rollout_twice_and_forgets_none(
    failing: dict[str, float], does_last: bool
) -> None:
    async def live(world: WatchedWorld) -> None:
        try:
            for _ in range(60):
                rollout = world.desired.rollout("fraud")
                is_over = rollout is not None and rollout.phase.is_terminal
                if world.store.is_dead or (is_over and isinstance(world.stage, Current | Stopped)):
                    return
                await world.seconds(1)
        except* ProcessDied:
            pass

    def new_outside() -> WatchedOutside:
        outside = WatchedOutside(failing=dict(failing))
        outside.registry.names = 2
        return outside

    reference = new_outside()
    async with a_watched_life(reference) as world:
        await live(world)
        assert isinstance(world.stage, Stopped) if failing else world.stage == Current()
    assert world.store.writes > 10
    for dies_at in range(1, world.store.writes + 1):
        outside = new_outside()
        async with a_watched_life(outside, MortalStore(outside.disk, dies_at, does_last)) as first:
            await live(first)
        async with a_watched_life(outside, life=2) as second:
            await live(second)
            assert len(second.desired.rollouts("fraud")) == 1, dies_at
            assert second.stage == world.watcher.standing("fraud").watched.stage, dies_at
            assert second.serving == model(1 if failing else 2).sha256, dies_at
