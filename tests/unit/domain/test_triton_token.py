"""The token that a restricted Triton wants to see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.errors import Invalid
from router.domain.routing import routing_for
from router.domain.traffic import Traffic
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from router.domain.triton_changes import why_not_in_place
from router.domain.triton_token import TritonToken
from tests.unit.router.states import state

TOKEN = TritonToken("x-token", "/run/token")
TRITON = RunningTriton((TritonServer("t"),), "m", 1)


def deployed(triton: RunningTriton) -> DeployedModel:
    return DeployedModel(Deployment("green", "fraud", triton, backend=Backend.TRITON), triton)


@pytest.mark.parametrize(
    ("header", "file", "key"),
    [
        ("", "/t", "header"),
        ("X-Token", "/t", "header"),
        ("x_token", "/t", "header"),
        ("AWS_SECRET", "/t", "header"),
        ("host", "/t", "header"),
        ("content-length", "/t", "header"),
        ("x-crossfade-gateway", "/t", "header"),
        ("x-token", "token", "token"),
        ("x-token", "", "token"),
    ],
)
def test_one_that_could_be_misread_cannot_be_built(header: str, file: str, key: str) -> None:
    with pytest.raises(Invalid) as refused:
        TritonToken(header, file)
    assert refused.value.key == f"triton.restricted.{key}"


def test_replicas_before_tritons_show_it_themselves() -> None:
    bridge = deployed(replace(TRITON, mode=TritonMode.BRIDGE, restricted=TOKEN))
    (upstream,) = routing_for(state({}, bridge), Traffic(), ()).upstreams
    assert upstream.token is None


def test_each_protocol_has_its_own_name_for_it() -> None:
    assert TOKEN.header_of(is_grpc=False) == "x-token"
    assert TOKEN.header_of(is_grpc=True) == "triton-grpc-protocol-x-token"


def test_the_data_plane_knows_whom_to_show_it_and_live_traffic_keeps_another_from_taking_its_place() -> None:
    plain, restricted = deployed(TRITON), deployed(replace(TRITON, restricted=TOKEN))
    (upstream,) = routing_for(state({}, restricted), Traffic(), ()).upstreams

    assert upstream.token == TOKEN
    assert plain.model_version == restricted.model_version
    assert plain.generation != restricted.generation
    assert why_not_in_place(plain, restricted)
    assert not why_not_in_place(restricted, restricted)
