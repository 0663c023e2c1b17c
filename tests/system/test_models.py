"""Models come once, and run from the cache, whatever becomes of where they came from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from pathlib import Path

import httpx
import onnx

from benchmarks.payloads import Payload
from tests.system.gateway import (
    SETTLE_TIMEOUT_S,
    Gateway,
    a_gateway,
    deployment,
    endpoint,
    eventually,
    write_spec,
)


def with_weights_beside_it(model: Path, folder: Path) -> None:
    """The same model as a folder: the graph, and its weights in a file of their own."""
    folder.mkdir()
    onnx.save_model(
        onnx.load(model),
        str(folder / "net.onnx"),
        save_as_external_data=True,
        location="net.weights",
        size_threshold=0,
    )


def answer(gateway: Gateway, payload: Payload) -> int:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{gateway.url}/v2/models/pulled/infer", content=payload.body, headers=headers, timeout=10)
    return reply.status_code


def test_a_model_is_fetched_once_and_its_replicas_come_back_without_its_source(
    shared: Gateway, models: Path, payload: Payload, tmp_path: Path
) -> None:
    source = tmp_path / "net"
    with_weights_beside_it(models / "mlp.onnx", source)
    pulled = shared.run("model", "pull", f"file:{source}", "-o", "json")
    assert pulled.returncode == 0, pulled.stderr
    first = json.loads(pulled.stdout)
    assert first["fetched_bytes"] == first["total_bytes"] == sum(file.stat().st_size for file in source.iterdir())
    kept = Path(first["path"])
    assert kept.parent == shared.data_dir / "models" / "trees" / first["digest"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o444
    assert json.loads(shared.run("model", "pull", f"file:{source}", "-o", "json").stdout)["fetched_bytes"] == 0

    documents = [endpoint("pulled", {"only": 100}), deployment("pulled", "only", source)]
    shared.apply(*documents)
    assert answer(shared, payload) == 200
    shown = shared.run("deployment", "show", "pulled", "only").stdout
    assert first["digest"] in shown
    assert f"file:{source}#sha256={first['digest']}" in shown

    shutil.rmtree(source)
    done = shared.admin.apply(documents)
    assert {change["action"] for change in done["changes"]} == {"unchanged"}
    assert "there is no such file" in done["notes"][0]
    assert f"file:{source}: there is no such file" in shared.run("status").stdout
    (replica,) = shared.replicas_of("pulled", "only")
    os.kill(replica.pid, signal.SIGKILL)
    eventually(
        lambda: (
            [it.pid for it in shared.replicas_of("pulled", "only")] != [replica.pid] and answer(shared, payload) == 200
        ),
        SETTLE_TIMEOUT_S,
        lambda: shared.run("endpoint", "show", "pulled").stdout,
    )

    verified = shared.run("model", "verify", first["digest"], "-o", "json")
    assert json.loads(verified.stdout)["models"] == [{"digest": first["digest"], "is_intact": True, "reason": ""}]
    assert first["digest"] not in shared.admin.collect_models(0, 0.0)["digests"]
    shared.in_force(shared.admin.delete_endpoint("pulled", is_forced=True))
    assert first["digest"] in shared.admin.collect_models(0, 0.0)["digests"]
    trail = shared.run("audit", "list", "-o", "json").stdout
    assert f"source file:{source}#sha256={first['digest']}" in trail


def test_without_any_source_a_boot_serves_what_is_intact(models: Path, payload: Payload, tmp_path: Path) -> None:
    """Two models are deployed one after the other. Then their files are gone, the later one is damaged in the cache,
    and everything starts again."""
    source = tmp_path / "net.onnx"
    documents = [endpoint("pulled", {"only": 100}), deployment("pulled", "only", source, model_version="1")]
    with a_gateway(tmp_path) as gateway:
        shutil.copy(models / "mlp.onnx", source)
        spec = write_spec(tmp_path / "spec.yaml", documents)
        gateway.start(spec)
        good = gateway.admin.deployment("pulled", "only")["model_sha256"]
        onnx.save_model(_renamed(onnx.load(source)), source)
        gateway.apply(*documents)
        damaged = gateway.admin.deployment("pulled", "only")["model_sha256"]
        assert damaged != good
        gateway.send(signal.SIGTERM)
        assert gateway.wait_for_end() == 0, gateway.said

        source.unlink()
        (file,) = (gateway.data_dir / "models" / "trees" / damaged).iterdir()
        file.chmod(0o644)
        file.write_bytes(bytes(file.stat().st_size))
        gateway.start(spec)
        eventually(lambda: answer(gateway, payload) == 200, SETTLE_TIMEOUT_S, lambda: gateway.said)
        assert gateway.admin.deployment("pulled", "only")["model_sha256"] == good
        assert "serves its last good model" in gateway.said


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Another file that computes the same."""
    model.graph.name = "retrained"
    return model
