"""A model repository as Triton reads it, for a model that is one itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb2

from adapters.model_folder import read_tree
from adapters.triton.ensembles import find_served
from adapters.triton.model_config import Wanted
from adapters.triton.repository import Repository, write_ensemble
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.triton_managed import ManagedTriton
from serving.signature import Signature, TensorSpec
from serving.triton_assembly import make_repository
from serving.triton_ports import TriedModel
from tests.triton.ensembles import scoring

MODEL = TriedModel(
    Signature((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "FP32", (-1, 64)),), True),
    {"x": np.ones((1, 64), np.float32)},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def kept(folder: Path) -> ResolvedModel:
    """As the cache has it."""
    digest = read_tree(folder).digest
    return ResolvedModel(str(folder.rename(folder.with_name(digest))), digest)


def written(run: Path, content: ResolvedModel, wanted: Wanted) -> Repository:
    found = find_served(content, wanted.triton.model)
    assert found is not None
    served, _ = found
    return write_ensemble(str(run), content.folder, served, wanted, {"scale": MODEL, "mlp": MODEL})


def listing(repository: Repository) -> list[str]:
    """Every file that Triton finds, links followed, and the folders in which there is none."""
    found: list[str] = []

    def walk(folder: Path) -> None:
        entries = sorted(folder.iterdir())
        if not entries:
            found.append(f"{folder.relative_to(repository.folder)}/")
        for entry in entries:
            if entry.is_dir():
                walk(entry)
            else:
                found.append(str(entry.relative_to(repository.folder)))

    walk(repository.folder)
    return found


def config(repository: Repository, name: str) -> pb2.ModelConfig:
    return text_format.Parse((repository.folder / name / "config.pbtxt").read_text(), pb2.ModelConfig())


def test_the_ensemble_gets_the_endpoints_name_and_its_parts_are_beside_it(run: Path, tmp_path: Path) -> None:
    source = scoring(tmp_path / "model")
    (source / "theirs" / "labels.txt").write_text("yes\nno\n")
    made = written(run, kept(source), Wanted("fraud", instances=2))
    assert listing(made) == [
        "fraud/1/",
        "fraud/config.pbtxt",
        "fraud/labels.txt",
        "mlp/3/model.onnx",
        "mlp/config.pbtxt",
        "scale/1/model.onnx",
        "scale/config.pbtxt",
        "scale/warmup/crossfade-0",
    ]
    assert (made.name, made.parts, made.backend) == ("fraud", ("scale", "mlp"), "onnxruntime")
    assert made.is_asked_first
    assert [step.model_name for step in config(made, "fraud").ensemble_scheduling.step] == ["scale", "mlp"]
    for part in made.parts:
        (group,) = config(made, part).instance_group
        assert (config(made, part).name, group.count) == (part, 2)
    assert not config(made, "fraud").instance_group


def test_a_part_whose_name_the_endpoint_has_is_called_otherwise_everywhere(run: Path, tmp_path: Path) -> None:
    made = written(run, kept(scoring(tmp_path / "model")), Wanted("mlp"))
    assert made.names == ("mlp", "scale", "mlp-part")
    assert [step.model_name for step in config(made, "mlp").ensemble_scheduling.step] == ["scale", "mlp-part"]
    assert config(made, "mlp").platform == "ensemble"
    assert config(made, "mlp-part").name == "mlp-part"


def test_that_name_is_free_as_well(run: Path, tmp_path: Path) -> None:
    source = scoring(tmp_path / "model")
    (source / "scale").rename(source / "mlp-part")
    ensemble = source / "theirs" / "config.pbtxt"
    ensemble.write_text(ensemble.read_text().replace('"scale"', '"mlp-part"'))
    content = kept(source)
    found = find_served(content, "")
    assert found is not None
    made = write_ensemble(str(run), content.folder, found[0], Wanted("mlp"), {"mlp-part": MODEL, "mlp": MODEL})
    assert made.names == ("mlp", "mlp-part", "mlp-part-")


def test_it_is_not_asked_first_where_nothing_is_warmed_up(run: Path, tmp_path: Path) -> None:
    cold = Wanted("fraud", triton=ManagedTriton(is_warmed_up=False))
    made = written(run, kept(scoring(tmp_path / "model")), cold)
    assert not made.is_asked_first
    assert not [path for path in listing(made) if "warmup" in path]


def test_what_is_wrong_with_a_part_is_told_with_its_name_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    sizes = Wanted("fraud", max_batch_size=64, triton=ManagedTriton(preferred_batch_sizes=(16,)))
    with pytest.raises(ModelUnavailable, match=r"^mlp, a part of theirs: .*no batch of 16 rows"):
        written(run, kept(scoring(tmp_path / "model")), sizes)
    assert not list(run.iterdir())


def test_a_repository_that_is_not_what_was_deployed_is_not_read(tmp_path: Path) -> None:
    content = kept(scoring(tmp_path / "model"))
    readme = Path(content.folder, "README.md")
    readme.write_text("otherwise")
    with pytest.raises(ModelUnavailable, match="not what was deployed"):
        find_served(content, "")


def test_a_models_own_folder_is_none_and_neither_is_a_file(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "1").mkdir(parents=True)
    (source / "1" / "model.onnx").write_text("a graph")
    (source / "config.pbtxt").write_text("")
    content = kept(source)
    assert find_served(content, "") is None
    assert find_served(ResolvedModel("/m.onnx", "ab" * 32), "") is None
    with pytest.raises(ModelUnavailable, match="there is no model 'fraud'; it is no repository of several models"):
        find_served(content, "fraud")


def deployed(content: ResolvedModel, reference: str = "/m", named: str = "") -> DeployedModel:
    managed = ManagedTriton(model=named)
    spec = Deployment("green", "fraud", ModelRef("file", reference), backend=Backend.TRITON, managed=managed)
    return DeployedModel(spec, content)


def test_which_model_is_served_is_the_repositorys_the_specs_or_the_references_choice(run: Path, tmp_path: Path) -> None:
    content = kept(scoring(tmp_path / "model"))
    chosen = ResolvedModel(f"{content.path}/scale/1/model.onnx", content.sha256)
    for made, parts, files in (
        (make_repository(str(run), deployed(content)), ("scale", "mlp"), 2),
        (make_repository(str(run), deployed(content, named="mlp")), (), 1),
        (make_repository(str(run), deployed(chosen, "/m#scale/1/model.onnx")), (), 1),
    ):
        assert made.parts == parts
        assert len([path for path in listing(made) if path.endswith("model.onnx")]) == files
    assert listing(make_repository(str(run), deployed(content, named="mlp")))[0] == "fraud/4/model.onnx"
