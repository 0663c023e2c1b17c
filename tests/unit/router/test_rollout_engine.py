"""The rollout engine with everything around it, in a world that moves only when the test moves it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.admin_ports import DeploymentCondition
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.errors import Conflict, NotFound, StoreFailed
from router.domain.rollout import PauseCause, Phase, RolloutSpec
from router.domain.routing import Shield
from router.domain.scaling import ScaleSettings
from router.domain.strategy import Analyze, Pause, SetMirror, SetWeight, Strategy
from router.domain.traffic import Mirror, Traffic
from router.domain.triton import RunningTriton, TritonServer
from router.plan import RevisionConflict
from router.ports import Presence
from router.spec import Document, read_documents
from router.spec.changes import Scale, TrafficChange
from tests.rollout_world import POLICY, SPEC, Outside, a_life

SHIELD = Shield(candidate="green", stable="blue")


async def test_a_healthy_candidate_goes_all_the_way_unattended() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.until(lambda: world.phase is Phase.SUCCEEDED)
        assert outside.traffic == {"green": 100}
        assert world.desired.state("fraud").deployment("blue").spec.instance_count == 0
        assert world.kinds.count("rollout_started") == 1
        assert world.kinds[-1] == "rollout_succeeded"
        trail = world.engine.trail("fraud")
        assert trail[0].what.by == "ann"
        assert [entry.what.revision for entry in trail] == list(range(1, len(trail) + 1))
        assert [entry.what for entry in world.told.entries] == [entry.what for entry in trail]


async def test_a_candidate_that_fails_is_rolled_back_by_itself() -> None:
    outside = Outside(failing={"green": 1.0})
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.seconds(3)
        assert world.phase is Phase.ROLLED_BACK
        assert outside.traffic == {"blue": 100}
        assert "failed" in world.engine.trail("fraud")[-2].what.message
        assert world.kinds.count("rolled_back") == 1


async def test_a_candidate_that_is_slow_is_rolled_back() -> None:
    outside = Outside(slow={"green": 1.0})
    async with a_life(outside) as world:
        await world.seconds(2)
        await world.engine.start(SPEC, "ann")
        await world.until(lambda: world.phase.is_terminal)
        assert world.phase is Phase.ROLLED_BACK
        assert "slower" in world.rollout.reason


async def test_what_nobody_records_the_answers_of_cannot_be_compared_and_is_told_at_the_start() -> None:
    triton = RunningTriton((TritonServer("t1"),), "fraud")
    direct = DeployedModel(Deployment("green", "fraud", triton, backend=Backend.TRITON), triton)
    async with a_life(Outside()) as world:
        world.desired.publish([world.desired.state("fraud").with_deployment(direct)], [])
        steps = (SetMirror(10), Analyze(min_pairs=20), SetWeight(100))
        with pytest.raises(Conflict, match=r"nobody records those of 'green'.*min_pairs: 0.*mode: bridge"):
            await world.engine.start(replace(SPEC, strategy=Strategy("", steps)), "ann")
        assert await world.engine.start(SPEC, "ann")  # compares nothing


async def test_without_traffic_it_holds_and_then_pauses() -> None:
    outside = Outside(requests_per_s=0)
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.seconds(25)
        assert world.phase is Phase.PROGRESSING
        await world.seconds(10)
        assert (world.phase, world.rollout.pause) == (Phase.PAUSED, PauseCause.INCONCLUSIVE)
        assert outside.traffic == {"blue": 50, "green": 50}


async def test_the_shield_is_up_before_the_first_request_and_down_a_requests_length_after_the_last() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        seen = [(routing.traffic.percent("green"), routing.shield) for routing in outside.envoy.history]
        assert all(shield == SHIELD for percent, shield in seen if percent)
        outside.failing = {"green": 1.0}
        await world.until(lambda: world.phase is Phase.ROLLED_BACK)
        assert outside.envoy.wanted["fraud"].shield == SHIELD
        await world.seconds(7)  # its requests may take 5 s
        assert outside.envoy.wanted["fraud"].shield is None


async def test_no_shield_is_put_up_where_none_is_wanted() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(replace(SPEC, policy=replace(POLICY, shield=False)), "ann")
        await world.until(lambda: world.phase is Phase.SUCCEEDED)
        assert not any(routing.shield for routing in outside.envoy.history)


async def test_a_weight_counts_when_envoy_has_acknowledged_it() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        outside.envoy.is_held = True
        await world.engine.start(SPEC, "ann")
        await world.seconds(20)
        assert world.rollout.step == SetWeight(50)
        assert world.rollout.weight_percent == 0
        outside.envoy.let_go()
        await world.quiet()
        assert world.rollout.weight_percent == 50


async def test_a_verdict_before_the_acknowledgement_of_a_rollback_changes_nothing() -> None:
    outside = Outside(failing={"green": 1.0})
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        outside.envoy.is_held = True
        await world.until(lambda: world.phase is Phase.ROLLING_BACK)
        outside.failing = {}
        await world.seconds(5)
        assert world.phase is Phase.ROLLING_BACK
        outside.envoy.let_go()
        await world.quiet()
        assert world.phase is Phase.ROLLED_BACK


async def test_a_candidate_that_loses_its_replicas_is_rolled_back_at_once() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        world.has_replicas(green=0)
        await world.quiet()
        assert world.phase is Phase.ROLLED_BACK
        assert outside.traffic == {"blue": 100}


async def test_a_rollback_onto_nothing_holds_and_pages() -> None:
    outside = Outside(failing={"green": 1.0})
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        world.has_replicas(blue=0)
        await world.until(lambda: world.phase is Phase.ROLLING_BACK)
        await world.seconds(60)
        assert world.phase is Phase.ROLLING_BACK
        assert "blue has 0 of 1 replicas ready" in world.rollout.holding
        assert world.kinds.count("page") == 1
        world.has_replicas(blue=1)
        await world.quiet()
        assert world.phase is Phase.ROLLED_BACK


async def test_a_rollback_does_not_go_to_a_stable_that_was_killed_but_is_still_announced() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(replace(SPEC, strategy=Strategy("whole", (SetWeight(100), Analyze()))), "ann")
        await world.seconds(2)
        assert outside.traffic == {"green": 100}
        (blue,) = (replica for replica in world.reconciler.replicas if replica.deployment == "blue")
        world.lookout.found[blue.address] = Presence.GONE
        await world.seconds(2)
        outside.failing = {"green": 0.3}
        await world.until(lambda: world.phase is Phase.ROLLING_BACK)
        await world.seconds(60)
        assert (world.phase, outside.traffic) == (Phase.ROLLING_BACK, {"green": 100})
        assert "requests failed" in world.rollout.reason
        assert world.rollout.holding == "blue has 0 of 1 replicas ready, too few to take the traffic back"
        assert world.kinds.count("page") == 1
        world.lookout.found.clear()  # as Ray's replacement would be: somebody else, who listens
        world.has_replicas(blue=2)
        await world.until(lambda: world.phase is Phase.ROLLED_BACK)
        assert outside.traffic == {"blue": 100}


async def test_it_waits_for_the_candidates_replicas_before_anything_moves() -> None:
    outside = Outside(replicas={"blue": 1, "green": 0})
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.seconds(10)
        assert world.phase is Phase.PENDING
        assert outside.traffic == {"blue": 100}
        world.has_replicas(green=1)
        await world.quiet()
        assert world.phase is Phase.PROGRESSING


async def test_a_candidate_that_sleeps_is_awake_before_anything_moves() -> None:
    outside = Outside(scales=ScaleSettings(max_instances=1, min_instances=0))
    async with a_life(outside) as world:
        blue, green = sorted(world.reconciler.replicas, key=lambda replica: replica.deployment)
        world.ray.has(blue, replace(green, is_idle=True))
        await world.quiet()
        world.ray.has(blue)
        await world.quiet()
        assert world.deployment("green").condition is DeploymentCondition.ASLEEP
        await world.engine.start(SPEC, "ann")
        await world.seconds(10)
        assert (world.phase, world.rollout.holding) == (Phase.PENDING, "green has 0 of 1 replicas ready")
        assert outside.traffic == {"blue": 100}
        world.ray.has(blue, green)
        await world.quiet()
        assert world.phase is Phase.PROGRESSING


async def test_operators_pause_resume_promote_and_abort() -> None:
    outside = Outside(requests_per_s=0)
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        assert (await world.engine.pause("fraud", "bob")).phase is Phase.PAUSED
        assert (await world.engine.resume("fraud", "bob")).phase is Phase.PROGRESSING
        await world.engine.promote("fraud", "bob", is_full=False)
        await world.quiet()
        assert outside.traffic == {"green": 100}
        await world.engine.abort("fraud", "bob", "not today")
        await world.quiet()
        assert world.phase is Phase.ABORTED
        assert outside.traffic == {"blue": 100}
        with pytest.raises(Conflict, match="cannot be paused"):
            await world.engine.pause("fraud", "bob")
        assert {entry.what.by for entry in world.engine.trail("fraud")} == {"ann", "bob", "crossfade"}


async def test_a_second_rollout_waits_its_turn() -> None:
    async with a_life(Outside()) as world:
        await world.engine.start(SPEC, "ann")
        with pytest.raises(Conflict, match="is under way"):
            await world.engine.start(SPEC, "bob")


async def test_what_does_not_exist_is_not_rolled_out() -> None:
    async with a_life(Outside()) as world:
        with pytest.raises(NotFound):
            await world.engine.start(replace(SPEC, candidate="amber"), "ann")
        with pytest.raises(NotFound):
            await world.engine.start(replace(SPEC, endpoint="spam"), "ann")
        with pytest.raises(NotFound):
            world.engine.latest("fraud")


async def test_undo_brings_the_old_deployment_back_even_when_it_was_scaled_down() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.until(lambda: world.phase is Phase.SUCCEEDED)
        world.has_replicas(blue=0)
        await world.engine.undo("fraud", "bob")
        await world.quiet()
        assert world.desired.state("fraud").deployment("blue").spec.instance_count == 1
        assert (world.phase, outside.traffic) == (Phase.PENDING, {"green": 100})
        world.has_replicas(blue=1)
        await world.quiet()
        assert outside.traffic == {"blue": 100}
        assert [rollout.undoes != "" for rollout in world.engine.history("fraud")] == [True, False]


async def test_undo_of_a_promoted_rollout_ends_it_and_is_at_once() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.until(lambda: world.phase is Phase.PROMOTED)
        await world.engine.undo("fraud", "bob")
        await world.quiet()
        assert outside.traffic == {"blue": 100}
        undone = world.engine.history("fraud")[1]
        assert (undone.phase, undone.reason) == (Phase.SUCCEEDED, "another rollout was started by bob")


async def test_undo_does_not_overrule_what_was_done_by_hand_since() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.until(lambda: world.phase is Phase.PROMOTED)
        await world.operations.change_traffic("fraud", TrafficChange(Traffic.of({"blue": 30, "green": 70})))
        await world.seconds(10)
        assert outside.traffic == {"blue": 30, "green": 70}
        assert (world.phase, world.rollout.reason) == (Phase.SUCCEEDED, "a change was made by hand by an operator")
        with pytest.raises(Conflict, match="the traffic was changed"):
            await world.engine.undo("fraud", "bob")


async def test_a_deleted_endpoint_takes_its_rollout_along() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        await world.operations.delete_endpoint("fraud", is_forced=True)
        await world.quiet()
        assert outside.disk.load_rollouts() == ()
        world.clock.advance(10)
        world.meter.report()
        await world.quiet()
        assert "fraud" not in outside.envoy.wanted
        assert "rollout_hindered" not in world.kinds


async def test_a_step_that_waits_for_a_person_waits_over_a_restart() -> None:
    outside = Outside()
    steps = Strategy("by hand", (SetWeight(50), Pause(), SetWeight(100)))
    async with a_life(outside) as world:
        await world.engine.start(RolloutSpec("fraud", "green", steps, POLICY), "ann")
        await world.seconds(3)
    async with a_life(outside, life=2) as world:
        assert (world.phase, world.rollout.pause) == (Phase.PAUSED, PauseCause.STEP)
        await world.seconds(100)
        assert outside.traffic == {"blue": 50, "green": 50}
        await world.engine.promote("fraud", "bob", is_full=False)
        await world.quiet()
        assert outside.traffic == {"green": 100}


async def test_a_restart_tells_envoy_what_it_knows_already() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.seconds(1)
    before = outside.envoy.wanted["fraud"]
    outside.envoy.history.clear()
    async with a_life(outside, life=2) as world:
        assert set(outside.envoy.history) == {before}


async def test_followers_hear_of_a_change_and_of_none_when_the_time_is_over() -> None:
    async with a_life(Outside()) as world:
        seen = await world.engine.start(SPEC, "ann")
        now = await world.engine.changed("fraud", seen, timeout_s=10)
        assert now != seen
        assert await world.engine.changed("fraud", world.rollout, timeout_s=0) == world.rollout


async def test_a_gateway_that_starts_again_waits_for_its_replicas_instead_of_going_back() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.seconds(1)
        world.has_replicas(blue=0, green=0)
        outside.disk.save_replicas([])
    outside.replicas = {"blue": 1, "green": 0}
    async with a_life(outside, life=2) as world:
        await world.seconds(5)
        assert world.phase is Phase.PROGRESSING
        world.has_replicas(green=1)
        await world.until(lambda: world.phase is Phase.PROMOTED)


async def test_on_a_full_disk_it_holds_and_says_so_and_goes_on_when_there_is_room() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.seconds(1)
        world.store.is_full = True
        await world.seconds(10)
        assert outside.traffic == {"blue": 50, "green": 50}
        assert world.kinds.count("rollout_hindered") == 1
        with pytest.raises(StoreFailed):
            await world.engine.pause("fraud", "bob")
        world.store.is_full = False
        await world.until(lambda: world.phase is Phase.SUCCEEDED)


async def test_traffic_and_deployments_of_a_rollout_are_not_changed_by_hand() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        with pytest.raises(Conflict, match="traffic cannot be changed by hand: wait until it has ended, abort it"):
            await world.operations.change_traffic("fraud", TrafficChange(Traffic.of({"blue": 100})))
        await world.operations.apply(documents(("amber", "amber.onnx")))
        with pytest.raises(Conflict, match="mirror cannot be changed"):
            await world.operations.change_traffic("fraud", TrafficChange(mirror=Mirror("amber", 5)))
        with pytest.raises(Conflict, match="'green' cannot be changed in place"):
            await world.operations.apply(documents(("green", "new.onnx")))
        assert outside.traffic == {"blue": 50, "green": 50}


async def test_what_says_nothing_new_about_the_traffic_may_be_applied_during_a_rollout() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        for traffic in ({}, {"traffic": {"blue": 50, "green": 50}}):
            await world.operations.apply(read_documents([{"kind": "Endpoint", "name": "fraud", **traffic}]))
        await world.operations.apply(documents(("amber", "amber.onnx")))
        await world.operations.scale("fraud", "blue", Scale(3))
        assert world.phase is Phase.PROGRESSING


async def test_a_forced_change_aborts_the_rollout_first() -> None:
    outside = Outside()
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        revision = world.desired.state("fraud").revision
        change = TrafficChange(Traffic.of({"blue": 70, "green": 30}))
        await world.operations.change_traffic("fraud", change, revision, is_forced=True, by="bob")
        await world.quiet()
        assert world.phase is Phase.ABORTED
        assert world.rollout.reason == "aborted by bob: a change was forced"
        assert outside.traffic == {"blue": 70, "green": 30}


async def test_a_forced_change_of_an_old_revision_aborts_nothing() -> None:
    async with a_life(Outside()) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        change = TrafficChange(Traffic.of({"blue": 70, "green": 30}))
        with pytest.raises(RevisionConflict):
            await world.operations.change_traffic("fraud", change, 1, is_forced=True, by="bob")
        assert world.phase is Phase.PROGRESSING


async def test_a_dry_run_says_that_a_rollout_is_in_the_way() -> None:
    async with a_life(Outside()) as world:
        await world.engine.start(SPEC, "ann")
        await world.quiet()
        with pytest.raises(Conflict, match="is under way"):
            await world.operations.apply(documents(("green", "new.onnx")), is_dry_run=True)
        done = await world.operations.apply(documents(("green", "new.onnx")), is_dry_run=True, is_forced=True)
        assert done.changes
        assert world.phase is Phase.PROGRESSING


async def test_deployments_that_scale_by_themselves_are_left_to_themselves() -> None:
    outside = Outside(scales=ScaleSettings(max_instances=4))
    async with a_life(outside) as world:
        await world.engine.start(SPEC, "ann")
        await world.until(lambda: world.phase is Phase.SUCCEEDED)
        assert world.desired.state("fraud").deployment("blue").spec.scale_settings == outside.scales
        assert "rollout_hindered" not in world.kinds
        await world.engine.undo("fraud", "bob")
        await world.until(lambda: world.phase is Phase.PROMOTED)
        assert outside.traffic == {"blue": 100}


def documents(*models: tuple[str, str]) -> tuple[Document, ...]:
    return read_documents(
        [
            {"kind": "Deployment", "name": name, "endpoint": "fraud", "model": f"file:/models/{file}"}
            for name, file in models
        ]
    )
