"""The gate before a repository of several models, of which an ensemble is served by a Triton of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from router.domain.deployment import Backend, Deployment
from router.domain.model_ref import ModelRef
from router.domain.triton_managed import ManagedTriton
from router.models.admission import AdmissionRules
from router.models.ports import AdmissionRefused, Candidate
from router.models.trial import Check
from serving.signature import Signature, TensorSpec
from tests.admission import graphs
from tests.admission.folders import QUICK, admitted, tree_of
from tests.triton.ensembles import ENSEMBLE, MLP, scoring

SIGNATURE = Signature(
    (TensorSpec("row", "FP32", (-1, 64)),), (TensorSpec("scores", "FP32", (-1, 10)),), is_batchable=True
)


def managed(named: str = "", reference: str = "/models/fraud") -> Deployment:
    triton = ManagedTriton(model=named)
    return Deployment("green", "fraud", ModelRef("file", reference), backend=Backend.TRITON, managed=triton)


def candidate(folder: Path, deployment: Deployment | None = None, **files: bytes) -> Candidate:
    """`files`: written over what is there, their names with __ for a slash."""
    scoring(folder)
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_pbtxt", ".pbtxt").replace("_onnx", ".onnx")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Candidate(str(folder), tree_of(folder), "file:/models/fraud", deployment or managed())


async def refused(asked: Candidate, rules: AdmissionRules | None = None) -> AdmissionRefused:
    with pytest.raises(AdmissionRefused) as refusal:
        await admitted(asked, rules)
    return refusal.value


async def test_every_graph_behind_it_is_tried_and_callers_see_what_the_ensemble_takes_and_gives(tmp_path: Path) -> None:
    passed = await admitted(replace(candidate(tmp_path / "m", **{"theirs__1__.gitkeep": b""}), live=SIGNATURE))
    notes = dict(passed.checks)
    assert passed.signature == SIGNATURE
    assert notes[Check.FORMATS] == "theirs is the model, an ensemble of scale, mlp, and nothing else runs"
    assert "mlp/3/model.onnx in " in notes[Check.RUNTIME]
    assert "mlp/3/model.onnx in " in notes[Check.WARM_UP]
    assert "mlp/4/model.onnx" not in notes[Check.RUNTIME]
    assert "mlp/4/model.onnx: 1 node" in notes[Check.GRAPH]  # looked through all the same
    assert notes[Check.INTERFACE] == "as those of the live model"


async def test_another_signature_of_the_ensemble_is_noticed_whatever_its_graphs_take(tmp_path: Path) -> None:
    live = replace(SIGNATURE, inputs=(TensorSpec("x", "FP32", (-1, 64)),))
    refusal = await refused(replace(candidate(tmp_path / "m"), live=live))
    assert refusal.check == Check.INTERFACE
    assert "input 'x' is called 'row'" in refusal.found


async def test_a_part_that_does_not_run_is_refused(tmp_path: Path) -> None:
    fails = graphs.model(
        [
            helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("s", TensorProto.INT64, [1], [7])),
            helper.make_node("Reshape", ["x", "shape"], ["y"]),
        ]
    )
    refusal = await refused(candidate(tmp_path / "m", mlp__3__model_onnx=fails))
    assert refusal.check == Check.WARM_UP


@pytest.mark.parametrize(
    ("files", "check", "words"),
    [
        ({"mlp__config_pbtxt": b'backend: "python"'}, Check.FORMATS, "asks for 'python'"),
        (
            {"theirs__config_pbtxt": b'backend: "onnxruntime" ' + ENSEMBLE.format(width=64).encode()},
            Check.FORMATS,
            "says backend 'onnxruntime' and platform 'ensemble', which are two things",
        ),
        ({"scale__1__model.py": b"import os"}, Check.FORMATS, "'scale/1/model.py' is code"),
        (
            {
                "mlp__config_pbtxt": MLP.encode()
                + b'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/" } }'
            },
            Check.FORMATS,
            "'mlp/config.pbtxt' loads code",
        ),
        ({"theirs__config_pbtxt": b'platform: "ensemble"'}, Check.FORMATS, "names no inputs or no outputs"),
        (
            {
                "other__config_pbtxt": b'platform: "ensemble" input { name: "x" data_type: TYPE_FP32 } '
                b'output { name: "y" data_type: TYPE_FP32 }'
            },
            Check.FORMATS,
            "there are 2 ensembles, of which none is a part of another: other, theirs",
        ),
        (
            {
                "theirs__config_pbtxt": b'platform: "ensemble" input { name: "x" data_type: TYPE_FP32 dims: 1 } '
                b'output { name: "y" data_type: TYPE_FP32 dims: 1 } '
                b'ensemble_scheduling { step { model_name: "gone" model_version: -1 } }'
            },
            Check.FORMATS,
            "the ensemble 'theirs' leads to 'gone', and no such model is beside it",
        ),
    ],
    ids=["python backend", "two backends", "python code", "environment", "no tensors", "two", "missing part"],
)
async def test_what_one_of_its_models_may_not_do_refuses_all(
    tmp_path: Path, files: dict[str, bytes], check: Check, words: str
) -> None:
    refusal = await refused(candidate(tmp_path / "m", **files))
    assert (refusal.check, words in refusal.found) == (check, True), refusal.found


async def test_a_parts_own_code_does_not_run_where_that_of_single_models_may(tmp_path: Path) -> None:
    rules = AdmissionRules(trial=QUICK, allow_python_models=True)
    python = {"mlp__config_pbtxt": b'backend: "python"', "mlp__3__model.py": b"import os"}
    refusal = await refused(candidate(tmp_path / "m", **python), rules)
    assert "the model 'mlp' is for Triton's backend 'python'" in refusal.found
    assert "code never runs" in refusal.found


async def test_golden_requests_cannot_be_asked_of_several_graphs(tmp_path: Path) -> None:
    refusal = await refused(replace(candidate(tmp_path / "m"), golden=("/golden.json",)))
    assert refusal.check == Check.GOLDEN
    assert refusal.to_do == "remove golden_requests"


async def test_one_of_its_models_can_be_chosen_by_the_spec_or_by_the_reference(tmp_path: Path) -> None:
    by_spec = candidate(tmp_path / "a", managed("scale"))
    by_reference = candidate(tmp_path / "b", managed(reference="/models/fraud#scale/1/model.onnx"))
    for asked in (by_spec, by_reference):
        passed = await admitted(asked)
        assert dict(passed.checks)[Check.FORMATS] == "scale/1/model.onnx is the model, and nothing else runs"
        assert [spec.name for spec in passed.signature.inputs] == ["x"]
    assert "there is no model 'gone'" in (await refused(candidate(tmp_path / "c", managed("gone")))).found


async def test_replicas_of_ours_serve_no_ensemble_and_say_who_does(tmp_path: Path) -> None:
    onnx = Deployment("green", "fraud", ModelRef("file", "/models/fraud"))
    refusal = await refused(candidate(tmp_path / "m", onnx))
    assert "'theirs/config.pbtxt' is an ensemble of other models" in refusal.found
    assert "triton: {mode: managed}" in refusal.to_do
