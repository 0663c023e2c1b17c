"""Where models come from, one of each kind: a real server if there is one, and a model that its client put there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy
from typing import Any

import onnx

from tests.registries.certificates import Authority
from tests.registries.cloud.stores import BUCKET, SECRET, USER, Store, azurite, fake_gcs, seaweed
from tests.registries.fake_hub import FakeHub, storage_of
from tests.registries.http_server import file_server, http_server_in_thread
from tests.registries.mlflow_server import mlflow
from tests.registries.oci.docker_registry import PASSWORD, docker_registry
from tests.registries.oci.docker_registry import USER as OCI_USER

PLAIN: dict[str, Any] = {"plain_http": True}


@dataclass(frozen=True)
class Origin:
    """`reference`: as a spec names it. `hosts`, `settings`: what registries.yaml must say. `environment`: variables of
    the gateway. `push`: put the model there, if it is not there yet, and return the digest that it must have. `name`:
    have a mutable name stand for a model from now on, and return the reference; None where no test needs it."""

    reference: str
    push: Callable[[], str]
    hosts: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    name: Callable[[str, Path], str] | None = None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def of_mlflow(folder: Path, model: Path) -> Iterator[Origin]:
    """What `mlflow.onnx` makes of the model: a graph, and its weights beside it."""
    with mlflow(folder) as server:

        def push() -> str:
            server.push("mlflow_log.py", "mlp", model)
            files = sorted(server.logged().items())
            return sha256("".join(f"{sha256(content)}  {name}\n" for name, content in files).encode())  # sha256sum's

        settings = {"mlflow": {"tracking_server": f"http://{server.host}"}}

        def name(text: str, another: Path) -> str:
            server.push("mlflow_log.py", text, another)
            return f"models:/{text}@champion"

        yield Origin("models:/mlp@champion", push, {server.host: PLAIN}, settings, name=name)


@contextmanager
def of_oras(folder: Path, model: Path) -> Iterator[Origin]:
    with docker_registry(folder / "registry") as registry:
        pushed = folder / "pushed"
        pushed.mkdir()
        copy(model, pushed)

        def push() -> str:
            registry.push_by_oras("team/mlp:stable", pushed)
            return sha256(model.read_bytes())

        def name(text: str, another: Path) -> str:
            named = folder / text
            named.mkdir(exist_ok=True)
            copy(another, named / "mlp.onnx")
            registry.push_by_oras(f"team/{text}:stable", named)
            return f"oci://{registry.host}/team/{text}:stable"

        yield Origin(f"oci://{registry.host}/team/mlp:stable", push, {registry.host: PLAIN}, name=name)


@contextmanager
def of_a_locked_registry(folder: Path, model: Path) -> Iterator[Origin]:
    """TLS of a private authority, and a password."""
    authority = Authority(folder)
    with docker_registry(folder / "registry", authority=authority, is_locked=True) as registry:
        (folder / "password").write_text(f"{PASSWORD}\n")
        signed_in = {"username": {"env": "REGISTRY_USER"}, "password": {"file": str(folder / "password")}}

        def push() -> str:
            with registry.pusher("mlp") as pusher:
                pusher.files("1", {"mlp.onnx": model.read_bytes()})
            return sha256(model.read_bytes())

        yield Origin(
            f"oci://{registry.host}/mlp:1",
            push,
            {registry.host: {**signed_in, "ca_bundle": authority.bundle}},
            environment={"REGISTRY_USER": OCI_USER},
        )


def of_store(
    started: Callable[[Path], AbstractContextManager[Store]], path: str = "", **settings: Any
) -> Callable[[Path, Path], AbstractContextManager[Origin]]:
    """An object in a bucket. `path`: of the store, at its host; `settings`: of its scheme."""

    @contextmanager
    def made(folder: Path, model: Path) -> Iterator[Origin]:
        with started(folder) as store:
            (folder / "key").write_text(SECRET)
            signed_in = {"username": {"env": "STORE_USER"}, "password": {"file": str(folder / "key")}}

            def push() -> str:
                store.put("mlp/1/model.onnx", model.read_bytes())
                return sha256(model.read_bytes())

            place = {"endpoint": f"http://{store.host}{path}"}
            yield Origin(
                f"{store.scheme}://{BUCKET}/mlp/1/model.onnx",
                push,
                {store.host: {**PLAIN, **(signed_in if store.refuses else {})}},
                {store.scheme: {**place, **settings}},
                {"STORE_USER": USER},
            )

    return made


@contextmanager
def of_a_hub(folder: Path, model: Path) -> Iterator[Origin]:
    """One that wants a token, and keeps large files elsewhere."""
    del folder
    hub = FakeHub({"README.md": b"card", "onnx/model.onnx": model.read_bytes()}, token="t0ken")
    with http_server_in_thread(storage_of(hub)) as storage, http_server_in_thread(hub.behave) as server:
        hub.storage = storage.url
        yield Origin(
            "hf://org/repo",
            lambda: sha256(model.read_bytes()),
            {server.host: {**PLAIN, "token": {"env": "HUB_TOKEN"}}, storage.host: PLAIN},
            {"huggingface": {"endpoint": server.url}},
            {"HUB_TOKEN": hub.token},
        )


@contextmanager
def of_https(folder: Path, model: Path) -> Iterator[Origin]:
    """A web server whose certificate is of a private authority."""
    authority = Authority(folder)
    digest = sha256(model.read_bytes())
    with http_server_in_thread(file_server(model.read_bytes()), authority.server()) as server:
        yield Origin(
            f"{server.url}/mlp.onnx#sha256={digest}",
            lambda: digest,
            {server.host: {"ca_bundle": authority.bundle}},
        )


@contextmanager
def of_a_file(folder: Path, model: Path) -> Iterator[Origin]:
    """Gone when the others are."""
    file = Path(copy(model, folder / "shared.onnx"))
    yield Origin(f"file:{file}", lambda: sha256(model.read_bytes()))
    file.unlink()


@contextmanager
def of_a_package(folder: Path, model: Path) -> Iterator[Origin]:
    """On the gateway's path. Gone when the others are."""
    package = folder / "mlp_in_a_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('a model was asked for, not code')\n")
    file = Path(copy(model, package / "mlp.onnx"))
    yield Origin(
        f"package://{package.name}/{file.name}",
        lambda: sha256(model.read_bytes()),
        environment={"PYTHONPATH": str(folder)},
    )
    file.unlink()


KINDS: dict[str, Callable[[Path, Path], AbstractContextManager[Origin]]] = {
    "mlflow": of_mlflow,
    "oras": of_oras,
    "locked": of_a_locked_registry,
    "s3": of_store(seaweed, region="us-east-1"),
    "az": of_store(azurite, f"/{USER}", account=USER),
    "gs": of_store(fake_gcs, anonymous=True),
    "hub": of_a_hub,
    "https": of_https,
    "file": of_a_file,
    "package": of_a_package,
}


@contextmanager
def origins(folder: Path, model: Path) -> Iterator[dict[str, Origin]]:
    """One of every kind, by name, started at the same time. They end with the block. Each has a file of its own that
    computes the same as `model`: what another one has brought would not be fetched again."""

    def started(kind: str) -> Origin:
        (folder / kind).mkdir(parents=True)
        own = onnx.load(model)
        own.doc_string = kind
        onnx.save_model(own, folder / kind / "mlp.onnx")
        return running.enter_context(KINDS[kind](folder / kind, folder / kind / "mlp.onnx"))

    with ExitStack() as running:
        with ThreadPoolExecutor(len(KINDS)) as pool:
            found = dict(zip(KINDS, pool.map(started, KINDS), strict=True))
        yield found
