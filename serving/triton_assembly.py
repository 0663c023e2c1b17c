"""Where the parts of a replica that runs a Triton are put together. Knows no Ray."""

from __future__ import annotations

import os
from dataclasses import replace

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import OnnxOptions
from adapters.triton.model_config import wanted_of
from adapters.triton.program import checked_program
from adapters.triton.repository import write_repository
from adapters.triton.server import TritonHomeOnDisk, TritonSettings
from router.domain.deployment import DeployedModel
from router.domain.errors import ModelUnavailable
from serving.replica import ReplicaConfig
from serving.triton_ports import TriedModel, TritonHome
from serving.warmup import are_rows_independent, first_that_runs


def make_home(config: ReplicaConfig, ip: str) -> TritonHome:
    """Try the model here, and prepare what a Triton needs to serve it. Raises `ModelUnavailable`."""
    deployed, wanted = config.deployed, wanted_of(config.deployed)
    content = deployed.content
    repository = write_repository(config.socket_dir, content.path, content.folder, wanted, tried_model(deployed))
    try:
        program = checked_program(repository.backend, os.environ)
    except ModelUnavailable:
        repository.remove()
        raise
    return TritonHomeOnDisk(TritonSettings(program, repository, ip, wanted.instances, wanted.gpus > 0))


def tried_model(deployed: DeployedModel) -> TriedModel:
    """What ONNX Runtime finds out about the model, on the CPU. Triton would believe whatever a configuration says, also
    that rows may be joined that change one another's answers. Raises `ModelUnavailable`."""
    backend = OnnxBackend(OnnxOptions(deployed.content.path, deployed.content.sha256, folder=deployed.content.folder))
    try:
        sample, signature = first_that_runs(backend), backend.signature
        is_batchable = signature.is_batchable and are_rows_independent(backend, sample)
        return TriedModel(replace(signature, is_batchable=is_batchable), sample.rows(1))
    finally:
        backend.close()
