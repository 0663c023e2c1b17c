"""Who can be compared with whom in a rollout."""

from __future__ import annotations

from dataclasses import replace

from router.domain.comparable import why_not_compared
from router.domain.deployment import Backend, Deployment
from router.domain.model_ref import ModelRef
from router.domain.strategy import Analyze, SetMirror, canary, shadow
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from router.domain.triton_managed import ManagedTriton

BLUE = Deployment("blue", "e", ModelRef("file", "/m.onnx"))
TRITON = RunningTriton((TritonServer("t1"),), "m")
DIRECT = Deployment("green", "e", TRITON, backend=Backend.TRITON)
BRIDGE = replace(DIRECT, model=replace(TRITON, mode=TritonMode.BRIDGE))
MANAGED = replace(BLUE, name="green", backend=Backend.TRITON, managed=ManagedTriton())
COMPARING = shadow(analyze=Analyze(min_pairs=1))


def test_only_replicas_answers_are_compared_whichever_side_they_are_on() -> None:
    assert why_not_compared(COMPARING, [BLUE, BRIDGE]) == ""
    assert why_not_compared(COMPARING, [BRIDGE, BLUE]) == ""
    for sides in ([BLUE, DIRECT], [DIRECT, BLUE], [BLUE, MANAGED]):
        assert "those of 'green'" in why_not_compared(COMPARING, sides)


def test_who_asks_for_no_comparison_may_mirror_to_anybody() -> None:
    assert any(isinstance(step, SetMirror) for step in canary().steps)
    assert why_not_compared(canary(), [BLUE, DIRECT]) == ""
