"""From a reference to a model in the cache: who is asked, what is fetched, what is recorded."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from router.domain.errors import ModelUnavailable, NotFound
from router.domain.model_ref import ModelRef
from router.domain.provenance import Pulled
from router.models.ports import SourceUnavailable
from router.models.pulls import PullState
from tests.fakes import NOON, Bench

CHAMPION = ModelRef.parse("models:/fraud@champion")
VERSION_3 = ModelRef.parse("models:/fraud/3")


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_what_was_pulled_is_recorded_with_everything_that_its_source_knows() -> None:
    bench = Bench()
    bench.source.pinned = "models:/fraud/3"
    model = await bench.pulled.pulling.pull(CHAMPION, "ann")
    digest = digest_of(b"graph")
    assert model.is_fetched
    assert (model.resolved.path, model.resolved.sha256) == (f"/models/trees/{digest}/m.onnx", digest)
    assert model.resolved.folder == f"/models/trees/{digest}"
    assert bench.pulled.records.history.records == (
        Pulled(NOON, "ann", str(CHAMPION), "models:/fraud/3", "r1", digest, "", (("run_id", "7"),)),
    )


async def test_a_second_pull_asks_and_fetches_nothing_and_records_nothing_new() -> None:
    bench = Bench()
    await bench.pulled.pulling.pull(CHAMPION, "ann")
    model = await bench.pulled.pulling.pull(CHAMPION, "bob")
    assert not model.is_fetched
    assert model.origin.by == "ann"
    assert (bench.source.resolved, len(bench.source.reads)) == (2, 1)
    assert len(bench.pulled.records.history.records) == 1


async def test_a_reference_that_always_names_the_same_is_asked_for_once() -> None:
    bench = Bench()
    bench.source.pinned = str(VERSION_3)
    await bench.pulled.pulling.pull(VERSION_3, "ann")
    bench.source.trouble = SourceUnavailable("no route to the registry")
    assert (await bench.pulled.pulling.pull(VERSION_3, "ann")).resolved.sha256 == digest_of(b"graph")
    assert bench.source.resolved == 1
    with pytest.raises(SourceUnavailable):
        await bench.pulled.pulling.pull(CHAMPION, "ann")


async def test_a_model_that_left_the_cache_is_asked_for_again() -> None:
    bench = Bench()
    bench.source.pinned = str(VERSION_3)
    await bench.pulled.pulling.pull(VERSION_3, "ann")
    await bench.pulled.cache.collect((), 0)
    assert (await bench.pulled.pulling.pull(VERSION_3, "ann")).is_fetched


async def test_an_alias_that_moved_leads_to_the_new_model() -> None:
    bench = Bench()
    old = await bench.pulled.pulling.pull(CHAMPION, "ann")
    bench.source.files, bench.source.revision = {"m.onnx": b"retrained"}, "r2"
    new = await bench.pulled.pulling.pull(CHAMPION, "ann")
    assert (old.resolved.sha256, new.resolved.sha256) == (digest_of(b"graph"), digest_of(b"retrained"))
    history = bench.pulled.records.history
    assert [pull.revision for pull in history.pulls_by(str(CHAMPION))] == ["r2", "r1"]


async def test_of_several_graphs_one_must_be_chosen() -> None:
    bench = Bench()
    bench.source.files = {"a/model.onnx": b"a", "b/model.onnx": b"b", "tokenizer.json": b"{}"}
    with pytest.raises(
        ModelUnavailable, match=r"several .onnx files: a/model.onnx, b/model.onnx; choose one: …#a/model"
    ):
        await bench.pulled.pulling.pull(CHAMPION, "ann")
    chosen = await bench.pulled.pulling.pull(ModelRef.parse("models:/fraud@champion#b/model.onnx"), "ann")
    assert chosen.resolved.path.endswith("/b/model.onnx")
    assert not chosen.is_fetched
    with pytest.raises(ModelUnavailable, match=r"the model has no file 'c\.onnx'"):
        await bench.pulled.pulling.pull(ModelRef.parse("models:/fraud@champion#c.onnx"), "ann")


async def test_a_model_is_had_again_only_as_it_was() -> None:
    bench = Bench()
    origin = (await bench.pulled.pulling.pull(CHAMPION, "ann")).origin
    await bench.pulled.cache.collect((), 0)
    assert (await bench.pulled.pulling.pull_again(origin, "crossfade")).tree.digest == origin.digest
    bench.source.files, bench.source.revision = {"m.onnx": b"another"}, "r2"
    with pytest.raises(ModelUnavailable, match="is another model by now"):
        await bench.pulled.pulling.pull_again(origin, "crossfade")


async def test_how_well_a_source_answers_is_remembered() -> None:
    bench = Bench()
    await bench.pulled.pulling.pull(CHAMPION, "ann")
    freshness = bench.pulled.pulling.freshness
    assert (freshness.of(str(CHAMPION)).answered_at, freshness.of(str(CHAMPION)).trouble) == (NOON, "")
    bench.source.trouble = SourceUnavailable("no route")
    with pytest.raises(SourceUnavailable):
        await bench.pulled.pulling.pull(CHAMPION, "ann")
    asked = freshness.of(str(CHAMPION))
    assert (asked.answered_at, asked.trouble, asked.trouble_since) == (NOON, "no route", NOON)


async def test_a_pull_is_an_operation_that_is_followed_and_found_again() -> None:
    bench = Bench()
    pulls = bench.pulled.catalogue.pulls
    pull = pulls.start(CHAMPION, "ann")
    assert (pull.state, pull.reading.done_bytes) == (PullState.RUNNING, 0)
    await pulls.ended(pull, 10)
    assert pulls.find(pull.id).state is PullState.DONE
    assert (pull.reading.done_bytes, pull.reading.total_bytes, pull.reading.left_s) == (5, 5, 0.0)
    assert [event.kind for event in bench.events.after(0)] == ["model_pulled"]
    with pytest.raises(NotFound):
        pulls.find("nobody")


async def test_a_pull_that_fails_says_why_and_one_that_is_cancelled_has_ended() -> None:
    bench = Bench()
    pulls = bench.pulled.catalogue.pulls
    bench.source.trouble = SourceUnavailable("no route")
    pull = pulls.start(CHAMPION, "ann")
    await pulls.ended(pull, 10)
    assert (pull.state, pull.reason) == (PullState.FAILED, "no route")
    bench.source.trouble, bench.source.held = None, asyncio.Event()
    under_way, not_begun = pulls.start(CHAMPION, "ann"), pulls.start(CHAMPION, "ann")
    await pulls.cancel(not_begun.id)
    assert bench.source.resolved == 2  # that of the first one, which failed, and one that is held
    await pulls.cancel(under_way.id)
    assert (under_way.state, not_begun.state) == (PullState.CANCELLED, PullState.CANCELLED)
    assert (await pulls.cancel(pull.id)).state is PullState.FAILED


async def test_what_nobody_needs_may_go_and_what_somebody_may_go_back_to_stays() -> None:
    bench = Bench()
    for content in (b"one", b"two", b"three"):
        bench.source.files, bench.source.revision = {"m.onnx": content}, content.decode()
        await bench.pulled.pulling.pull(CHAMPION, "ann")
    catalogue = bench.pulled.catalogue
    assert (await catalogue.collect(2, 0)).digests == (digest_of(b"one"),)
    assert [event.message for event in bench.events.after(0)] == ["1 model removed from the cache"]
    assert len(await catalogue.entries()) == 2
    assert sorted((await catalogue.collect(0, 0)).digests) == sorted([digest_of(b"two"), digest_of(b"three")])
