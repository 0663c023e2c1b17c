"""Endpoints, deployments and replicas to reason about."""

from __future__ import annotations

from types import MappingProxyType

from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Mirror, Traffic


def deployed(
    name: str, count: int = 1, version: str = "1", endpoint: str = "fraud", scaling: ScaleSettings | None = None
) -> DeployedModel:
    ref = ModelRef.parse(f"file:/models/{name}.onnx")
    spec = Deployment(name, endpoint, ref, model_version=version, instance_count=count, scale_settings=scaling)
    return DeployedModel(spec, ResolvedModel(f"/models/{name}.onnx", "ab" * 32))


def state(
    traffic: dict[str, int], *models: DeployedModel, mirror: Mirror | None = None, revision: int = 1
) -> EndpointState:
    name = models[0].spec.endpoint if models else "fraud"
    return EndpointState(
        Endpoint(name, Traffic.of(traffic), mirror),
        MappingProxyType({model.spec.name: model for model in models}),
        revision,
    )
