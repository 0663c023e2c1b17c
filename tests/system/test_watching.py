"""A model that is replaced at its source, under load: rolled out by itself, and rolled back when it is bad."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from benchmarks.models import poison
from benchmarks.payloads import payload_for
from benchmarks.steady import SteadyLoad
from tests.system.following import WATCH, until
from tests.system.gateway import Gateway, deployment, endpoint

ENDPOINT = "followed"
PER_SECOND = 80


class Alias:
    """A name that stands for another model from one moment to the next."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, model: Path) -> None:
        new = self.path.with_suffix(".new")
        new.symlink_to(model)
        os.replace(new, self.path)


@pytest.fixture
def alias(shared: Gateway, models: Path, tmp_path: Path) -> Iterator[Alias]:
    """What the endpoint's blue deployment runs, and what is watched."""
    alias = Alias(tmp_path / "champion.onnx")
    alias.names(models / "mlp.onnx")
    shared.apply(endpoint(ENDPOINT, {"blue": 100}) | {"watch": WATCH}, deployment(ENDPOINT, "blue", alias.path))
    yield alias
    shared.admin.delete_endpoint(ENDPOINT, is_forced=True)


async def test_an_alias_that_moves_under_load_is_followed_and_a_bad_model_is_rolled_back_and_not_tried_again(
    shared: Gateway, models: Path, alias: Alias, tmp_path: Path
) -> None:
    another = onnx.load(models / "mlp.onnx")
    another.doc_string = "trained again"
    onnx.save(another, tmp_path / "next.onnx")
    payload = payload_for(models / "mlp.onnx", ENDPOINT)
    url = f"{shared.url}/v2/models/{ENDPOINT}/infer"
    async with SteadyLoad(url, shared.grpc, payload, PER_SECOND) as load:
        await until(shared, ENDPOINT, lambda watch: watch["stage"] == "current")
        before = (await until(shared, ENDPOINT, lambda watch: True))["in_service"]["sha256"]

        alias.names(tmp_path / "next.onnx")
        good = await until(
            shared, ENDPOINT, lambda watch: watch["stage"] == "current" and watch["in_service"]["sha256"] != before
        )
        assert set(await load.split(PER_SECOND)) == {"green"}

        load.specials = {"poison": (payload_for(models / "mlp.onnx", ENDPOINT, poison()), 1.0)}
        alias.names(models / "faulty.onnx")
        bad = await until(shared, ENDPOINT, lambda watch: watch["stage"] == "stopped")
        assert "rolled back" in bad["barred"][0]["reason"]
        assert bad["in_service"] == good["in_service"]
        assert set(await load.split(PER_SECOND)) == {"green"}
        await until(shared, ENDPOINT, lambda watch: watch["answered_at"] > bad["next_at"])  # it has looked again
        rollouts = await asyncio.to_thread(shared.admin.rollouts, ENDPOINT)
        assert [rollout["phase"] for rollout in rollouts] == ["rolled_back", "succeeded"]
    assert not load.failures, load.failures[:10]
