"""Which files of a registry are the model."""

from __future__ import annotations

import pytest

from adapters.mlflow.layout import layout_in, onnx_data
from router.domain.errors import ModelUnavailable
from router.models.layout import Layout, layout_of

HUB = ("README.md", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1", "onnx/tokenizer.json", "w.bin")
TRITON = ("fraud/1/model.onnx", "fraud/2/model.onnx", "fraud/config.pbtxt")
MLMODEL = b"flavors:\n  onnx:\n    data: model.onnx\n  python_function: {loader_module: mlflow.onnx}\nsignature: null\n"


def test_the_only_onnx_file_comes_with_the_data_that_is_named_after_it() -> None:
    layout = layout_of(HUB)
    assert layout == Layout("onnx", ("onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"))
    assert [layout.name(path) for path in layout.paths] == ["model.onnx", "model.onnx_data", "model.onnx_data_1"]


def test_a_triton_repository_is_kept_whole() -> None:
    assert layout_of(TRITON) == Layout("", TRITON)
    assert layout_of([*TRITON, "x.onnx"], "fraud") == Layout("fraud", TRITON)


def test_a_path_chooses_among_several_and_may_name_a_file_or_a_folder() -> None:
    several = ("a/model.onnx", "a/model.onnx.data", "b/model.onnx", "b/other.onnx")
    assert layout_of(several, "a") == layout_of(several, "a/model.onnx") == Layout("a", several[:2])
    assert layout_of(several, "b/other.onnx") == Layout("b", ("b/other.onnx",))


@pytest.mark.parametrize(
    ("paths", "inside", "words"),
    [
        ((), "", "holds no files"),
        (("a.onnx",), "b", "there is no 'b' in it"),
        (("ab/a.onnx",), "a", "there is no 'a' in it"),
        (("model.pkl", "README.md"), "", "none of its 2 files is an ONNX file: export the model to ONNX"),
        (("a.onnx", "b.onnx"), "", r"holds 2 ONNX files: name one, with /a\.onnx at the end \(a\.onnx, b\.onnx\)"),
    ],
)
def test_what_is_no_model_or_several_is_told(paths: tuple[str, ...], inside: str, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        layout_of(paths, inside)


def test_mlflows_own_files_are_left_out_and_external_data_of_any_name_is_kept() -> None:
    data = "7f3a0a52-9f2e-11ef-8b5d-0242ac120002"
    paths = (data, "MLmodel", "conda.yaml", "input_example.json", "metadata/MLmodel", "model.onnx", "requirements.txt")
    assert layout_in(paths, MLMODEL, "") == Layout("", (data, "model.onnx"))


def test_a_signed_folder_is_kept_whole_but_for_what_mlflow_wrote_later() -> None:
    signed = ("model.onnx", "model.sig", "sub/weights", "vocab.txt")
    assert layout_of(signed) == layout_of(signed, "model.onnx") == Layout("", signed)
    logged = ("MLmodel", "conda.yaml", *signed)
    assert layout_in(logged, b"", "") == layout_in(logged, MLMODEL, "") == Layout("", signed)
    assert layout_of(("README.md", "a/m.onnx", "a/model.sig")) == Layout("a", ("a/m.onnx", "a/model.sig"))


def test_a_folder_named_by_mlmodel_holds_the_model() -> None:
    mlmodel = MLMODEL.replace(b"model.onnx", b"data")
    assert layout_in(("MLmodel", "data/m.onnx", "data/w", "x.onnx"), mlmodel, "").paths == ("data/m.onnx", "data/w")


@pytest.mark.parametrize(
    "mlmodel",
    [b"", b"flavors: {sklearn: {pickled_model: model.pkl}}", b"flavors: [onnx]", b"\xff\xfe", b"a: &x 1", b"- 1"],
)
def test_an_mlmodel_that_names_no_onnx_file_says_nothing(mlmodel: bytes) -> None:
    assert onnx_data(mlmodel) == ""
    assert layout_in(("MLmodel", "export/m.onnx"), mlmodel, "").paths == ("export/m.onnx",)
