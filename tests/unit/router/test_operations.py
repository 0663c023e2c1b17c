"""Operations: durable before published, all or nothing, one change at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

import pytest

from router.commits import in_words
from router.domain.audit import Record
from router.domain.endpoint import EndpointState
from router.domain.errors import Invalid, NotFound, StoreFailed
from router.domain.listening import GatewaySpec, Premises
from router.domain.traffic import Traffic
from router.plan import Action, Change, FieldChange, RevisionConflict
from router.spec import Document, SpecProblems, read_documents
from router.spec.changes import Scale, TrafficChange
from tests.fakes import Bench, MemoryStore

SPECS = [
    {"kind": "Endpoint", "name": "e", "traffic": {"blue": 100}},
    {"kind": "Deployment", "name": "blue", "endpoint": "e", "model": "file:/blue.onnx"},
    {"kind": "Deployment", "name": "green", "endpoint": "e", "model": "file:/green.onnx"},
]


def documents() -> tuple[Document, ...]:
    return read_documents(SPECS)


def half(green: int) -> TrafficChange:
    return TrafficChange(Traffic.of({"blue": 100 - green, "green": green}))


async def test_what_is_applied_is_stored_published_and_told() -> None:
    bench = Bench()
    done = await bench.operations.apply(documents())
    assert done.revisions == {"e": 1}
    assert bench.store.load() == dict(bench.desired.states)
    assert bench.desired.state("e").endpoint.traffic == Traffic.of({"blue": 100})
    assert bench.reconciler.told == ["e"]
    kinds = [event.kind for event in bench.events.after(0)]
    assert kinds == ["endpoint_created", "deployment_created", "deployment_created"]


async def test_applying_again_tells_nobody() -> None:
    bench = Bench()
    await bench.operations.apply(documents())
    done = await bench.operations.apply(documents())
    assert {change.action for change in done.changes} == {Action.UNCHANGED}
    assert bench.reconciler.told == ["e"]
    assert done.revisions == {"e": 1}


async def test_a_dry_run_says_the_same_and_does_nothing() -> None:
    bench = Bench()
    dry = await bench.operations.apply(documents(), is_dry_run=True)
    assert bench.store.load() == {}
    assert bench.desired.states == {}
    assert dry.revisions == {"e": 0}
    assert (await bench.operations.apply(documents())).changes == dry.changes


async def test_a_missing_model_refuses_the_whole_input() -> None:
    bench = Bench()
    bench.models.missing = {"file:/green.onnx"}
    with pytest.raises(SpecProblems, match=r"document 3: model: file:/green\.onnx: there is no such file"):
        await bench.operations.apply(documents())
    assert bench.store.load() == {}
    assert bench.reconciler.told == []


async def test_a_model_that_two_deployments_share_is_resolved_once() -> None:
    bench = Bench()
    shared = [spec | {"model": "file:/one.onnx"} if spec["kind"] == "Deployment" else spec for spec in SPECS]
    await bench.operations.apply(read_documents(shared))
    assert bench.models.asked == ["file:/one.onnx"]


async def test_of_two_changes_to_the_same_revision_one_wins() -> None:
    bench = Bench()
    await bench.operations.apply(documents())
    changes = [bench.operations.change_traffic("e", half(percent), expected=1) for percent in range(1, 11)]
    results = await asyncio.gather(*changes, return_exceptions=True)
    conflicts = [result for result in results if isinstance(result, RevisionConflict)]
    assert len(conflicts) == 9
    assert {(conflict.expected, conflict.actual) for conflict in conflicts} == {(1, 2)}
    assert bench.desired.state("e").revision == 2


async def test_changes_without_a_revision_all_happen_one_after_the_other() -> None:
    bench = Bench()
    await bench.operations.apply(documents())
    await asyncio.gather(*(bench.operations.change_traffic("e", half(percent)) for percent in range(1, 21)))
    assert bench.desired.state("e").revision == 21
    assert bench.store.load() == dict(bench.desired.states)


async def test_an_apply_can_insist_on_revisions() -> None:
    bench = Bench()
    await bench.operations.apply(documents(), expected={"e": 0})
    with pytest.raises(RevisionConflict):
        await bench.operations.apply(documents(), expected={"e": 0})


class BrokenStore(MemoryStore):
    """Its disk is full."""

    def save(
        self,
        changed: Iterable[EndpointState],
        deleted: Iterable[str],
        records: Collection[Record] = (),
        gateway: GatewaySpec | None = None,
    ) -> None:
        raise StoreFailed("the disk is full")


async def test_what_cannot_be_stored_is_not_published() -> None:
    bench = Bench(BrokenStore())
    with pytest.raises(StoreFailed):
        await bench.operations.apply(documents())
    assert bench.desired.states == {}
    assert bench.reconciler.told == []
    assert bench.events.after(0) == []


async def test_a_caller_who_is_cancelled_does_not_tear_a_change_apart() -> None:
    bench = Bench()
    await bench.operations.apply(documents())
    caller = asyncio.create_task(bench.operations.change_traffic("e", half(10)))
    await asyncio.sleep(0)  # the change has begun
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await bench.operations.change_traffic("e", half(20))
    assert bench.desired.state("e").revision == 3
    assert bench.store.load() == dict(bench.desired.states)


async def test_scaling_and_deleting() -> None:
    bench = Bench()
    operations = bench.operations
    await operations.apply(documents())
    await operations.scale("e", "green", Scale(3))
    assert bench.desired.state("e").deployments["green"].spec.instance_count == 3
    await operations.delete_deployment("e", "green")
    assert sorted(bench.desired.state("e").deployments) == ["blue"]
    done = await operations.delete_endpoint("e", is_forced=True)
    assert done.revisions == {"e": 0}
    assert bench.store.load() == {}
    assert bench.reconciler.told == ["e", "e", "e", "e"]


async def test_what_does_not_exist_is_named_with_what_does() -> None:
    bench = Bench()
    await bench.operations.apply(documents())
    with pytest.raises(NotFound) as missing:
        await bench.operations.delete_endpoint("f")
    assert missing.value.known == ("e",)


async def test_a_gateway_that_opens_up_refuses_to_start_with_anonymous_endpoints() -> None:
    bench = Bench()
    await bench.operations.apply(documents())
    with pytest.raises(Invalid, match="everybody on the network"):
        Bench(bench.store, Premises("10.0.0.5"))


def test_a_change_in_words() -> None:
    fields = (FieldChange("traffic", {"blue": 100}, {"blue": 90, "green": 10}), FieldChange("model_version", None, "2"))
    change = Change(Action.CHANGED, "e", "", fields)
    assert in_words(change) == "endpoint e changed: traffic blue=100 → blue=90 green=10, model_version none → 2"
    assert in_words(Change(Action.DELETED, "e", "blue")) == "deployment e/blue deleted"
    limits = FieldChange("limits", None, {"requests_per_second": 5, "per_caller": {"requests_per_second": 1}})
    written = '{"requests_per_second": 5, "per_caller": {"requests_per_second": 1}}'
    assert in_words(Change(Action.CHANGED, "e", "", (limits,))) == f"endpoint e changed: limits none → {written}"
    anonymous = FieldChange("allow_anonymous", None, True)
    assert in_words(Change(Action.CHANGED, "e", "", (anonymous,))) == "endpoint e changed: allow_anonymous none → true"
