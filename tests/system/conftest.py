"""One gateway for most tests: two deployments of a tiny network, echoes, and a model as slow as one likes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from benchmarks.models import faulty_mlp, tiny_mlp
from benchmarks.payloads import Payload, payload_for
from tests.system.gateway import Gateway, a_gateway, deployment, endpoint, write_spec
from tests.system.models import echo, slow, strings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts a whole gateway."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the gateways that it used said and logged: they are gone when somebody asks."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Gateway):
                report.sections.append((f"the gateway {name!r}", value.story()))
    return report


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlp.onnx, faulty.onnx, echo.onnx, strings.onnx, slow.onnx, and garbage.onnx, which is none."""
    folder = tmp_path_factory.mktemp("models")
    tiny_mlp(folder / "mlp.onnx")
    faulty_mlp(folder / "faulty.onnx")
    echo(folder / "echo.onnx")
    strings(folder / "strings.onnx")
    slow(folder / "slow.onnx")
    Path(folder, "garbage.onnx").write_bytes(b"this is no model " * 100)
    return folder


@pytest.fixture(scope="session")
def payload(models: Path) -> Payload:
    return payload_for(models / "mlp.onnx", "mlp")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Gateway]:
    """The gateway that stays up for all tests which do not end it. Tests put `mlp` in the state that they need."""
    folder = tmp_path_factory.mktemp("gateway")
    documents = [
        endpoint("mlp", {"blue": 100}),
        deployment("mlp", "blue", models / "mlp.onnx"),
        deployment("mlp", "green", models / "mlp.onnx"),
        endpoint("echo", {"only": 100}),
        deployment("echo", "only", models / "echo.onnx"),
        endpoint("strings", {"only": 100}),
        deployment("strings", "only", models / "strings.onnx"),
        endpoint("slow", {"only": 100}),
        deployment("slow", "only", models / "slow.onnx", request_settings={"request_timeout_ms": 1000}),
    ]
    # For tests that put a Triton there.
    with a_gateway(folder, environment={"CROSSFADE_TRITONSERVER": str(folder / "triton/bin/tritonserver")}) as gateway:
        gateway.start(write_spec(folder / "spec.yaml", documents))
        assert " failed" not in gateway.said, gateway.said
        yield gateway
