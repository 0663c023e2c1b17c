"""Tritons as a replica starts them, out of the wheel, with ONNX Runtime behind a backend that stands in for theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.model_folder import file_sha256, read_tree
from adapters.triton.model_config import wanted_of
from adapters.triton.server import TritonHomeOnDisk, TritonProcess, TritonSettings
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import Batching
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.triton_managed import ManagedTriton
from serving.triton_assembly import make_repository
from tests.envoy.waiting import DEADLINE_S


def deployed_model(model: Path, folder: Path | None = None, max_batch_size: int = 8) -> DeployedModel:
    """`folder`: named for the digest of what is in it, as the model cache has it; None for a mere file. `model` may be
    that folder, of which no file was chosen."""
    spec = Deployment(
        "green",
        "mlp",
        ModelRef("file", str(model)),
        backend=Backend.TRITON,
        managed=ManagedTriton(),
        batching=Batching(max_batch_size=max_batch_size),
    )
    digest = read_tree(folder).digest if folder else file_sha256(model)
    return DeployedModel(spec, ResolvedModel(str(model), digest))


def cached(folder: Path) -> Path:
    """The folder, renamed as the cache would name it."""
    return folder.rename(folder.with_name(read_tree(folder).digest))


def home_of(program: Path, beside: Path, deployed: DeployedModel) -> TritonHomeOnDisk:
    repository, instances = make_repository(str(beside), deployed), wanted_of(deployed).instances
    return TritonHomeOnDisk(TritonSettings(program, repository, "127.0.0.1", instances, has_gpu=False))


async def ready(triton: TritonProcess) -> None:
    """Raises `ModelUnavailable` when it ends before."""
    loading, ending = asyncio.create_task(triton.loaded()), asyncio.create_task(triton.ended())
    try:
        await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            raise ModelUnavailable(ending.result().words)
        loading.result()
    finally:
        loading.cancel()
        ending.cancel()


@asynccontextmanager
async def managed_triton(program: Path, beside: Path, deployed: DeployedModel) -> AsyncIterator[TritonProcess]:
    """Its model has answered."""
    home = await asyncio.to_thread(home_of, program, beside, deployed)
    try:
        triton = await home.start()
        async with asyncio.timeout(2 * DEADLINE_S):
            await ready(triton)
        yield triton
    finally:
        await home.close()
