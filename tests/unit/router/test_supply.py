"""The watcher's door to sources, cache and gate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.desired import Desired
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.events import EventLog
from router.models.ports import AdmissionRefused, SourceUnavailable
from router.models.supply import CachedSupply
from router.models.watch_ports import Spoilt, Wanted
from tests.fake_models import ModelBench
from tests.fakes import NOON, KnownModels
from tests.scripted_source import ScriptedSource
from tests.unit.router.states import deployed, state

REF = ModelRef.parse("models:/fraud@champion")


class Refusing(KnownModels):
    """A gate that nothing passes."""

    async def approve(
        self, deployed: DeployedModel, state: EndpointState | None, *, is_signature_change_allowed: bool
    ) -> None:
        raise AdmissionRefused("graph", "a Loop that never ends", "do not use it")


class Door:
    """A supply on fakes, with the fakes at hand."""

    def __init__(self, gate: KnownModels | None = None) -> None:
        self.source = ScriptedSource({"model.onnx": b"graph"})
        self.bench = ModelBench(self.source, Desired({}), EventLog(lambda: NOON), lambda: NOON)
        self.gate = gate or KnownModels()
        self.supply = CachedSupply(self.bench.pulling, self.gate)

    async def wanted(self) -> Wanted:
        spec = replace(deployed("green").spec, model=REF)
        return Wanted(await self.supply.resolve(REF), spec, state({"blue": 100}, deployed("blue")))


async def test_a_model_is_fetched_once_approved_and_remembered_by_its_revision() -> None:
    door = Door()
    model = await door.supply.prepare(await door.wanted())
    assert await door.supply.prepare(await door.wanted()) == model
    assert len(door.source.reads) == 1
    assert door.gate.looked_at == [(str(REF), False)] * 2
    assert await door.supply.fetched(REF, model.sha256) == model
    assert door.supply.revision_of(REF, model.sha256) == "r1"
    assert not await door.supply.has_moved(REF, "r1")
    assert door.bench.pulling.freshness.of(str(REF)).answered_at == NOON


async def test_a_model_that_is_not_here_any_more_is_missed() -> None:
    door = Door()
    assert door.supply.revision_of(REF, "a" * 64) == ""
    with pytest.raises(ModelUnavailable, match="not in the cache"):
        await door.supply.fetched(REF, "a" * 64)


async def test_what_came_spoilt_and_a_source_that_is_away_are_told_apart() -> None:
    door = Door()
    wanted = await door.wanted()
    door.source.files = {"readme.txt": b"no model", "licence.txt": b"none"}
    with pytest.raises(Spoilt, match=r"no \.onnx file"):
        await door.supply.prepare(wanted)
    door.source.trouble = SourceUnavailable("down", 7)
    with pytest.raises(SourceUnavailable, match="down"):
        await door.supply.prepare(wanted)


async def test_a_reference_that_moves_while_its_model_is_fetched_is_asked_again() -> None:
    door = Door()
    wanted = await door.wanted()
    door.source.revision = "r2"
    with pytest.raises(SourceUnavailable, match="another model by now"):
        await door.supply.prepare(wanted)


async def test_what_the_gate_refuses_is_refused() -> None:
    door = Door(Refusing())
    with pytest.raises(AdmissionRefused, match="never ends"):
        await door.supply.prepare(await door.wanted())
