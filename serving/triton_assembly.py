"""Where the parts of a replica that runs a Triton are put together. Knows no Ray."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import OnnxOptions
from adapters.triton.ensembles import find_served
from adapters.triton.model_config import wanted_of
from adapters.triton.program import checked_program
from adapters.triton.repository import Repository, write_ensemble, write_repository
from adapters.triton.server import TritonHomeOnDisk, TritonSettings
from router.domain.deployment import DeployedModel
from router.domain.errors import ModelUnavailable
from serving.certified import CertifiedReplica, Tell
from serving.replica import ReplicaConfig
from serving.triton_ports import TriedModel, TritonHome
from serving.triton_relay import RelayedHome
from serving.warmup import are_rows_independent, first_that_runs

_LOOPBACK = "127.0.0.1"


async def make_home(config: ReplicaConfig, certified: CertifiedReplica | None, tell: Tell) -> TritonHome:
    """Try the model here, and prepare what a Triton needs to serve it. Raises `ModelUnavailable`.

    `certified`: by what it is known when Envoy is on another host. `tell`: is told what it waits for.
    """
    home = await asyncio.to_thread(_prepared, config)
    if certified is None:
        return home
    try:
        await certified.start(tell)
    except BaseException:
        await home.close()
        raise
    return RelayedHome(home, certified)


def _prepared(config: ReplicaConfig) -> TritonHomeOnDisk:
    wanted = wanted_of(config.deployed)
    repository = make_repository(config.socket_dir, config.deployed)
    try:
        program = checked_program(repository.backend, os.environ)
    except ModelUnavailable:
        repository.remove()
        raise
    return TritonHomeOnDisk(TritonSettings(program, repository, _LOOPBACK, wanted.instances, wanted.gpus > 0))


def make_repository(beside: str, deployed: DeployedModel) -> Repository:
    """What a Triton reads, in a new folder inside `beside`. Each graph in it was tried. Raises `ModelUnavailable`."""
    content, wanted = deployed.content, wanted_of(deployed)
    found = None if deployed.spec.reference.entry else find_served(content, wanted.triton.model)
    if found is None:
        options = OnnxOptions(content.path, content.sha256, folder=content.folder)
        return write_repository(beside, content.path, content.folder, wanted, tried_model(options))
    served, sums = found

    def tried(graph: str) -> TriedModel:
        return tried_model(OnnxOptions(f"{content.folder}/{graph}", sums[graph]))

    if not served.top.is_ensemble:
        graph = served.top.graph
        return write_repository(beside, f"{content.folder}/{graph}", content.folder, wanted, tried(graph))
    parts = {part.name: tried(part.graph) for part in served.parts if not part.is_ensemble}
    return write_ensemble(beside, content.folder, served, wanted, parts)


def tried_model(options: OnnxOptions) -> TriedModel:
    """What ONNX Runtime finds out about the model, on the CPU. Triton would believe whatever a configuration says, also
    that rows may be joined that change one another's answers. Raises `ModelUnavailable`."""
    backend = OnnxBackend(options)
    try:
        sample, signature = first_that_runs(backend), backend.signature
        is_batchable = signature.is_batchable and are_rows_independent(backend, sample)
        return TriedModel(replace(signature, is_batchable=is_batchable), sample.rows(1))
    finally:
        backend.close()
