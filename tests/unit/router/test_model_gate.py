"""What applying asks of models: who is kept when a source fails, who is looked at before it gets traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from router.domain.audit import Record as AuditRecord
from router.domain.endpoint import EndpointState
from router.domain.errors import ModelUnavailable
from router.domain.provenance import Approved
from router.models.approving import GatedModels
from router.models.auditing import AuditedRecords
from router.models.cache_ports import NoRoom
from router.models.ports import AccessDenied, Admitted, Candidate, SourceUnavailable
from router.operations import Operations
from router.plan import Action, Rules
from router.spec import OutOfReach, SpecProblems, read_documents
from serving.signature import Signature, TensorSpec
from tests.fake_models import MemoryRecords
from tests.fakes import NOON, Bench

CHAMPION = "models:/fraud@champion"
NO_ROUTE = SourceUnavailable("registry.example: no route")


def specs(model: str = CHAMPION, **more: Any) -> list[dict[str, Any]]:
    return [
        {"kind": "Endpoint", "name": "e", "traffic": {"blue": 100}},
        {"kind": "Deployment", "name": "blue", "endpoint": "e", "model": model, **more},
    ]


def green(model: str = CHAMPION) -> dict[str, Any]:
    return {"kind": "Deployment", "name": "green", "endpoint": "e", "model": model}


class Gate:
    """Implements `Admission`: notes what it is shown; refuses when told so."""

    def __init__(self) -> None:
        self.shown: list[Candidate] = []
        self.refusal: ModelUnavailable | None = None

    async def admit(self, candidate: Candidate) -> Admitted:
        self.shown.append(candidate)
        if self.refusal:
            raise self.refusal
        tensor = TensorSpec("x", "FP32", (-1, len(self.shown)))
        return Admitted((("formats", "onnx"),), Signature((tensor,), (tensor,), True), signer="ci@example")


class World:
    """Operations over a scripted source, with a gate."""

    def __init__(self) -> None:
        self.bench = bench = Bench()
        self.gate = Gate()
        models = GatedModels(bench.pulled.pulling, self.gate, lambda: NOON)
        self.operations = Operations(bench.commits, models, bench.reconciler, bench.way, bench.quotas, Rules())

    async def apply(self, *documents: Mapping[str, Any], **how: Any) -> Any:
        return await self.operations.apply(read_documents([dict(document) for document in documents]), **how)

    def state(self) -> EndpointState:
        return self.bench.desired.state("e")


async def test_what_runs_is_left_alone_when_its_source_fails_and_other_changes_are_made() -> None:
    world = World()
    await world.apply(*specs())
    digest = world.state().deployment("blue").model.sha256
    world.bench.source.trouble = NO_ROUTE
    done = await world.apply(*specs(instance_count=2))
    assert world.state().deployment("blue").spec.instance_count == 2
    assert world.state().deployment("blue").model.sha256 == digest
    assert done.notes == (f"the model of 'blue' stays {digest[:12]}: registry.example: no route",)
    assert "model_not_resolved" in [event.kind for event in world.bench.events.after(0)]


@pytest.mark.parametrize("kind", [SourceUnavailable, AccessDenied, NoRoom])
async def test_what_is_new_is_refused_when_it_cannot_be_had_now(kind: type[ModelUnavailable]) -> None:
    world = World()
    await world.apply(*specs())
    world.bench.source.trouble = kind("registry.example: not now")
    for documents in ([green()], [*specs(), green()], specs("models:/fraud@challenger")):
        with pytest.raises(OutOfReach, match=r"model: registry\.example: not now"):
            await world.apply(*documents)
    assert set(world.state().deployments) == {"blue"}


async def test_a_model_that_does_not_exist_is_a_mistake_in_the_input() -> None:
    world = World()
    world.bench.source.trouble = ModelUnavailable("there is no model 'fraud'")
    with pytest.raises(SpecProblems) as refused:
        await world.apply(*specs())
    assert not isinstance(refused.value, OutOfReach)


async def test_an_alias_that_moved_changes_the_deployment_when_it_is_applied_again() -> None:
    world = World()
    await world.apply(*specs())
    world.bench.source.files, world.bench.source.revision = {"m.onnx": b"retrained"}, "r2"
    done = await world.apply(*specs())
    (change,) = [change for change in done.changes if change.deployment]
    assert (change.action, [field.key for field in change.fields]) == (Action.CHANGED, ["model_sha256"])


async def test_the_same_model_in_another_place_is_written_down_and_no_replica_is_changed() -> None:
    bench = Bench()
    await bench.operations.apply(read_documents(specs()))
    before = bench.desired.state("e").deployment("blue")
    bench.models.known[CHAMPION] = type(before.model)("/moved/m.onnx", before.model.sha256)
    done = await bench.operations.apply(read_documents(specs()))
    after = bench.desired.state("e").deployment("blue")
    assert {change.action for change in done.changes} == {Action.UNCHANGED}
    assert (after.model.path, after.generation) == ("/moved/m.onnx", before.generation)


async def test_another_choice_of_a_file_is_another_generation() -> None:
    world = World()
    world.bench.source.files = {"a.onnx": b"a", "b.onnx": b"b"}
    await world.apply(*specs(f"{CHAMPION}#a.onnx"))
    first = world.state().deployment("blue")
    await world.apply(*specs(f"{CHAMPION}#b.onnx"))
    second = world.state().deployment("blue")
    assert first.model.sha256 == second.model.sha256
    assert first.generation != second.generation


async def test_a_model_is_looked_at_before_it_gets_traffic_and_not_again() -> None:
    world = World()
    await world.apply(*specs())
    await world.apply(*specs())
    await world.apply(*specs(instance_count=3))
    (candidate,) = world.gate.shown
    assert candidate.folder == world.state().deployment("blue").model.folder
    assert [file.path for file in candidate.tree.files] == ["m.onnx"]
    assert (candidate.pinned, candidate.live) == (f"{CHAMPION}@r1", None)
    approval = world.bench.pulled.records.history.approval("e", "blue", candidate.tree.digest)
    assert isinstance(approval, Approved)
    assert (approval.checks, approval.signer) == ((("formats", "onnx"),), "ci@example")


async def test_a_new_model_is_compared_with_the_one_that_answers_now() -> None:
    world = World()
    await world.apply(*specs())
    world.bench.source.files, world.bench.source.revision = {"m.onnx": b"other"}, "r2"
    await world.apply(green(), is_signature_change_allowed=True)
    candidate = world.gate.shown[-1]
    assert candidate.live is not None
    assert candidate.live.inputs == (TensorSpec("x", "FP32", (-1, 1)),)
    assert candidate.is_signature_change_allowed


async def test_what_the_gate_refuses_changes_nothing_and_the_document_is_named() -> None:
    world = World()
    await world.apply(*specs())
    world.gate.refusal = ModelUnavailable("signature: nobody signed it; sign it, or set signatures: warn")
    with pytest.raises(SpecProblems, match="document 1: model: signature: nobody signed it"):
        await world.apply(green(f"{CHAMPION}#m.onnx"))
    assert set(world.state().deployments) == {"blue"}


async def test_a_dry_run_runs_no_model() -> None:
    world = World()
    await world.apply(*specs(), is_dry_run=True)
    assert world.gate.shown == []


async def test_the_audit_log_tells_where_a_model_came_from_and_who_looked_at_it() -> None:
    class Lines:
        def __init__(self) -> None:
            self.records: list[AuditRecord] = []

        def add(self, records: tuple[AuditRecord, ...]) -> None:
            self.records += records

    world, lines = World(), Lines()
    await world.apply(*specs())
    audited = AuditedRecords(MemoryRecords(), lines)  # type: ignore[arg-type]
    for record in world.bench.pulled.records.history.records:
        await audited.append(record)
    pulled, approved = lines.records
    digest = world.state().deployment("blue").model.sha256
    assert (pulled.action, pulled.subject, pulled.actor) == ("model_pulled", CHAMPION, "an operator")
    assert pulled.detail == f"digest {digest}, source {CHAMPION}@r1, run_id 7"
    assert (approved.action, approved.subject) == ("model_approved", "e/blue")
    assert approved.detail == f"digest {digest}, signed by ci@example, formats: onnx"
