"""Which file of a model is the one that is loaded, and how a reference chooses it."""

from __future__ import annotations

import pytest

from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.model_tree import ModelTree, TreeFile, entry_of


def tree(*paths: str) -> ModelTree:
    return ModelTree.of(TreeFile(path, 1, "a" * 64) for path in paths)


@pytest.mark.parametrize(
    ("paths", "wanted", "entry"),
    [
        (["weights.bin"], "", "weights.bin"),
        (["m.onnx", "m.weights"], "", "m.onnx"),
        (["a.onnx", "b.onnx"], "b.onnx", "b.onnx"),
        (["a/1/model.onnx", "a/config.pbtxt"], "", "a/1/model.onnx"),
        (["a/1/model.plan", "a/config.pbtxt"], "", ""),
        (["a/1/model.onnx", "a/10/model.onnx", "a/9/model.onnx"], "", "a/10/model.onnx"),
        (["encoder.onnx", "model.onnx"], "", "model.onnx"),
        (["a/1/x.onnx", "a/2/y.onnx", "a/config.pbtxt"], "", ""),
    ],
)
def test_the_only_graph_is_loaded_or_the_chosen_one(paths: list[str], wanted: str, entry: str) -> None:
    assert entry_of(tree(*paths), wanted) == entry


@pytest.mark.parametrize(
    ("paths", "wanted", "words"),
    [
        (["a.onnx", "b.onnx"], "", "several .onnx files: a.onnx, b.onnx"),
        (["a.bin", "b.bin"], "", "no .onnx file: it has a.bin, b.bin"),
        (["a.onnx"], "b.onnx", "has no file 'b.onnx'"),
        ([f"{number}.bin" for number in range(9)], "", "0.bin, 1.bin, 2.bin, 3.bin, 4.bin and 4 more"),
    ],
)
def test_what_is_not_clear_is_told(paths: list[str], wanted: str, words: str) -> None:
    with pytest.raises(Invalid, match=words.replace(".", r"\.")):
        entry_of(tree(*paths), wanted)


def test_a_reference_chooses_a_file_after_a_hash_sign() -> None:
    ref = ModelRef.parse("hf://org/repo@main#onnx/model_int8.onnx")
    assert ref.entry == "onnx/model_int8.onnx"
    assert str(ref.whole) == "hf://org/repo@main"
    assert str(ref) == "hf://org/repo@main#onnx/model_int8.onnx"


def test_a_digest_after_a_hash_sign_chooses_no_file() -> None:
    ref = ModelRef.parse(f"https://host/m.onnx#sha256={'a' * 64}")
    assert (ref.entry, ref.whole) == ("", ref)


def test_a_choice_that_leads_elsewhere_is_refused() -> None:
    for choice in ("../secret", "/etc/passwd", "a//b", "a\\b"):
        with pytest.raises(Invalid):
            ModelRef.parse(f"file:/srv/m#{choice}")


def test_the_folder_of_a_model_in_the_cache_is_named_for_its_digest() -> None:
    digest = "ab" * 32
    assert ResolvedModel(f"/data/trees/{digest}/onnx/m.onnx", digest).folder == f"/data/trees/{digest}"
    assert ResolvedModel(f"/data/trees/{digest}", digest).folder == f"/data/trees/{digest}"
    assert ResolvedModel("/srv/m.onnx", digest).folder == ""


@pytest.mark.parametrize(
    ("pinned", "entry"),
    [
        ("s3://b/m.onnx#etag=/", ""),
        ("gs://b/m.onnx#1700000000", ""),
        ("https://h/m.onnx#sha256=" + "a" * 64, ""),
        ("s3://b/m/#listing=" + "a" * 64 + "#onnx/m.onnx", "onnx/m.onnx"),
        ("gs://b/m/#1700000000#m.onnx", "m.onnx"),
    ],
)
def test_a_pin_is_no_choice_of_a_file_and_may_stand_before_one(pinned: str, entry: str) -> None:
    ref = ModelRef.parse(pinned)
    assert ref.entry == entry
    assert str(ref.whole) == (pinned.removesuffix(f"#{entry}") if entry else pinned)
