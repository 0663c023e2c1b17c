"""Models that are damaged: fetched again, or the last good one serves; and nothing is changed under who serves."""

from __future__ import annotations

from router.domain.model_ref import ModelRef
from router.models.ports import SourceUnavailable
from router.models.recovery import Recovery
from router.spec import read_documents
from tests.fakes import NOON, Bench

CHAMPION = ModelRef.parse("models:/fraud@champion")
SPECS = [
    {"kind": "Endpoint", "name": "e", "traffic": {"blue": 100}},
    {"kind": "Deployment", "name": "blue", "endpoint": "e", "model": str(CHAMPION)},
]
OLD, NEW = {"m.onnx": b"old"}, {"m.onnx": b"new"}


class World:
    """One deployment that served an old model, and serves a new one."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.pulled = self.bench.pulled
        self.recovery = Recovery(self.bench.commits, self.bench.reconciler, self.pulled.pulling, lambda: NOON)
        self.old = self.new = ""

    async def begin(self) -> None:
        self.old = await self.serve(OLD)
        self.new = await self.serve(NEW)

    async def serve(self, files: dict[str, bytes]) -> str:
        """Returns the digest."""
        bench = self.bench
        bench.source.files, bench.source.revision = files, str(files)
        bench.models.known[str(CHAMPION)] = (await self.pulled.pulling.pull(CHAMPION, "ann")).resolved
        await bench.operations.apply(read_documents(SPECS))
        await self.recovery.look()
        return self.serving

    @property
    def serving(self) -> str:
        return self.bench.desired.state("e").deployment("blue").model.sha256

    def kinds(self) -> list[str]:
        return [event.kind for event in self.bench.events.after(0) if event.kind.startswith("model_")]

    def fails(self) -> None:
        self.bench.reconciler.failures["blue"] = "the model is not what was deployed"


async def test_who_serves_which_model_is_recorded() -> None:
    world = World()
    await world.begin()
    await world.recovery.look()
    served = world.pulled.records.history.served("e", "blue")
    assert [item.digest for item in served] == [world.new, world.old]


async def test_a_damaged_model_is_fetched_again_where_its_source_still_has_it() -> None:
    world = World()
    await world.begin()
    world.pulled.cache.damaged.add(world.new)
    world.fails()
    await world.recovery.look()
    assert world.serving == world.new
    assert await world.pulled.cache.find(world.new) is not None
    assert world.kinds() == ["model_damaged", "model_restored"]


async def test_without_a_source_the_last_good_model_serves() -> None:
    world = World()
    await world.begin()
    world.bench.source.trouble = SourceUnavailable("no route to the registry")
    world.pulled.cache.damaged.add(world.new)
    world.fails()
    await world.recovery.look()
    assert world.serving == world.old
    assert world.kinds() == ["model_damaged", "model_missing", "model_fell_back"]
    assert f"serves its last good model {world.old[:12]}" in world.bench.events.after(0)[-1].message


async def test_a_source_that_has_another_model_by_now_is_no_help() -> None:
    world = World()
    await world.begin()
    world.bench.source.files, world.bench.source.revision = {"m.onnx": b"newest"}, "r9"
    world.pulled.cache.damaged.add(world.new)
    world.fails()
    await world.recovery.look()
    assert world.serving == world.old


async def test_replicas_that_are_ready_keep_what_they_have_in_memory() -> None:
    world = World()
    await world.begin()
    world.bench.source.trouble = SourceUnavailable("no route to the registry")
    world.pulled.cache.damaged.add(world.new)
    await world.recovery.examine_all()
    await world.recovery.look()
    assert world.serving == world.new
    assert world.kinds() == ["model_damaged", "model_missing"]
    world.fails()  # until they end
    await world.recovery.look()
    assert world.serving == world.old


async def test_a_last_good_model_that_is_damaged_too_does_not_serve() -> None:
    world = World()
    await world.begin()
    world.bench.source.trouble = SourceUnavailable("no route to the registry")
    world.pulled.cache.damaged |= {world.new, world.old}
    world.fails()
    await world.recovery.look()
    assert world.serving == world.new


async def test_a_deployment_that_fails_for_another_reason_is_left_alone() -> None:
    world = World()
    await world.begin()
    world.fails()
    await world.recovery.look()
    await world.recovery.look()
    assert world.serving == world.new
    assert world.kinds() == []
