"""The doors of the waiting room, without Envoy. What callers see through it: tests/envoy/test_waiting_room.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.domain.deployment import DeployedModel, Deployment
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import UnixAddress
from router.domain.scaling import ScaleSettings
from router.waiting_room import WaitingRoom


async def test_a_door_that_could_not_be_opened_is_opened_the_next_time(tmp_path: Path) -> None:
    room = WaitingRoom(tmp_path / "later", "token")
    scaling = ScaleSettings(max_instances=1, min_instances=0)
    spec = Deployment("blue", "e", ModelRef("file", "/m.onnx"), scale_settings=scaling)
    deployed = DeployedModel(spec, ResolvedModel("/m.onnx", "ab" * 32))
    with pytest.raises(FileNotFoundError):
        await room.open(deployed, lambda _: None)

    (tmp_path / "later").mkdir()
    address = await room.open(deployed, lambda _: None)

    assert isinstance(address, UnixAddress)
    _, writer = await asyncio.open_unix_connection(address.path)
    writer.close()
    await writer.wait_closed()
    await room.close()
