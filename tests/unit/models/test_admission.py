"""The order of the gate: what is not looked at any more once something was refused. Nothing here reads or runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from router.domain.deployment import Deployment
from router.domain.model_ref import ModelRef
from router.domain.model_tree import ModelTree, TreeFile
from router.models.admission import AdmissionRules, Eyes, ModelAdmission
from router.models.ports import AdmissionRefused, Candidate, SourceLimits
from router.models.signing import NotSigned, SignaturePolicy, Signed
from router.models.trial import Check, Finding, GraphFacts, Loaded, Ran, TrialJob
from router.models.triton_layout import TritonConfig
from serving.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), is_batchable=True)
GRAPH = GraphFacts("model.onnx", 10, (("", 21),), 3, 0, 0, ("w.bin",))
LOADED = Loaded(SIGNATURE, "ONNX Runtime 1.31", 0.1)
RAN = Ran(0, 0.001, 2**26)


class World:
    """Implements every port of the gate. `seen`: what was looked at, in order."""

    def __init__(self, heads: dict[str, bytes], findings: Sequence[Finding]) -> None:
        self.seen: list[str] = []
        self.job: TrialJob | None = None
        self._heads = heads
        self._findings = findings

    def heads(self, folder: str, tree: ModelTree) -> dict[str, bytes]:
        self.seen.append("files")
        return self._heads

    def read(self, folder: str, path: str, max_bytes: int) -> bytes:
        return self._heads[path]

    def verify(self, bundle: bytes) -> Signed:
        self.seen.append("signature")
        if bundle != b"good":
            raise NotSigned("it is bad")
        return Signed("ann.pem", {path: "0" * 64 for path in self._heads if path != "model.sig"})

    @asynccontextmanager
    async def begin(self, job: TrialJob) -> AsyncIterator[AsyncIterator[Finding]]:
        self.seen.append("trial")
        self.job = job
        yield self._told()

    async def _told(self) -> AsyncIterator[Finding]:
        for finding in self._findings:
            self.seen.append(type(finding).__name__)
            yield finding


class NoConfigs:
    def read(self, path: str, content: bytes) -> TritonConfig:
        raise AssertionError("there are none")


class Ensembles:
    def read(self, path: str, content: bytes) -> TritonConfig:
        return TritonConfig(platform="ensemble")


FILES = {"model.onnx": b"\x08\x0a", "w.bin": b"", "model.sig": b"good"}


def candidate(files: dict[str, bytes], live: Signature | None = None) -> Candidate:
    tree = ModelTree.of(TreeFile(path, 10, "0" * 64) for path in files)
    green = Deployment("green", "fraud", ModelRef.parse("file:/models/fraud"))
    return Candidate("/cache/m", tree, "file:/models/fraud", green, live, golden=("/golden/a.json",))


async def refused(world: World, asked: Candidate, rules: AdmissionRules | None = None) -> str:
    rules = rules or AdmissionRules(policy=SignaturePolicy.REQUIRE)
    with pytest.raises(AdmissionRefused) as error:
        await ModelAdmission(rules, Eyes(world, NoConfigs(), world, world)).admit(asked)
    return error.value.check


async def test_a_good_model_passes_every_check_in_order() -> None:
    world = World(FILES, [GRAPH, LOADED, RAN])
    rules = AdmissionRules(policy=SignaturePolicy.REQUIRE)
    admitted = await ModelAdmission(rules, Eyes(world, NoConfigs(), world, world)).admit(candidate(FILES))
    assert world.seen == ["files", "signature", "trial", "GraphFacts", "Loaded", "Ran"]
    assert (admitted.signature, admitted.signer) == (SIGNATURE, "ann.pem")
    assert world.job is not None
    assert (world.job.model, world.job.graphs, world.job.golden) == ("model.onnx", ("model.onnx",), ("/golden/a.json",))
    assert world.job.sizes == dict.fromkeys(FILES, 10)


async def test_a_model_that_is_too_large_is_not_even_read() -> None:
    world = World(FILES, [])
    rules = AdmissionRules(sizes=SourceLimits(max_bytes=29))
    assert await refused(world, candidate(FILES), rules) == Check.SIZE
    assert world.seen == []


async def test_a_model_with_a_bad_signature_is_not_looked_into() -> None:
    files = {**FILES, "model.sig": b"bad", "evil.pkl": b""}
    world = World(files, [])
    assert await refused(world, candidate(files)) == Check.SIGNATURE
    assert world.seen == ["files", "signature"]


async def test_a_model_with_a_pickle_is_not_tried() -> None:
    files = {**FILES, "evil.pkl": b""}
    world = World(files, [])
    assert await refused(world, candidate(files)) == Check.FORMATS
    assert world.seen == ["files", "signature"]


async def test_an_ensemble_is_told_from_several_models_of_which_none_was_chosen() -> None:
    graphs = {"a/1/model.onnx": b"\x08\x0a", "b/1/model.onnx": b"\x08\x0a"}
    for files, found in (
        ({**graphs, "both/config.pbtxt": b""}, "'both/config.pbtxt' is an ensemble of other models"),
        (graphs, "there are 2 .onnx files"),
    ):
        world = World(files, [])
        with pytest.raises(AdmissionRefused, match=found):
            await ModelAdmission(AdmissionRules(), Eyes(world, Ensembles(), world, world)).admit(candidate(files))


async def test_a_file_that_no_graph_names_ends_the_trial_before_the_model_is_loaded() -> None:
    files = {**FILES, "more.bin": b""}
    world = World(files, [GRAPH, LOADED, RAN])
    assert await refused(world, candidate(files)) == Check.FORMATS
    assert world.seen == ["files", "signature", "trial", "GraphFacts"]


async def test_another_signature_ends_the_trial_before_the_model_has_run() -> None:
    live = Signature((TensorSpec("x", "INT64", (-1,)),), SIGNATURE.outputs, is_batchable=True)
    world = World(FILES, [GRAPH, LOADED, RAN])
    assert await refused(world, candidate(FILES, live)) == Check.INTERFACE
    assert world.seen == ["files", "signature", "trial", "GraphFacts", "Loaded"]


@pytest.mark.parametrize(
    "findings", [[], [LOADED], [GRAPH, RAN], [GRAPH, GRAPH], [GRAPH, LOADED], [GRAPH, LOADED, LOADED]]
)
async def test_a_trial_that_says_something_out_of_turn_is_not_believed(findings: list[Finding]) -> None:
    assert await refused(World(FILES, findings), candidate(FILES)) == Check.RUNTIME
