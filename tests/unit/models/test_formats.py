from __future__ import annotations

import pytest

from router.domain.model_tree import ModelTree, TreeFile
from router.models.formats import HEAD_BYTES, check_claims, check_formats, check_size, model_of
from router.models.ports import AdmissionRefused, SourceLimits

GRAPH = b"\x08\x0a"


def tree(*sizes: tuple[str, int]) -> ModelTree:
    return ModelTree.of(TreeFile(path, size, "0" * 64) for path, size in sizes)


@pytest.mark.parametrize(
    ("files", "model"),
    [
        (["model.onnx"], "model.onnx"),
        (["nets/fraud.onnx"], "nets/fraud.onnx"),
        (["encoder.onnx", "model.onnx"], "model.onnx"),
        (["1/model.onnx", "2/model.onnx", "10/model.onnx"], "10/model.onnx"),
        (["net/1/model.onnx", "net/3/model.onnx"], "net/3/model.onnx"),
    ],
)
def test_the_model_is_found_among_the_graphs(files: list[str], model: str) -> None:
    assert model_of(tuple(files)) == model


@pytest.mark.parametrize(
    "files", [["a.onnx", "b.onnx"], ["a/1/model.onnx", "b/1/model.onnx"], ["1/model.onnx", "b.onnx"]]
)
def test_two_models_are_refused_and_named(files: list[str]) -> None:
    with pytest.raises(AdmissionRefused, match=f"there are 2 .onnx files \\('{files[0]}', '{files[1]}'\\)"):
        model_of(tuple(files))


def test_the_chosen_one_of_several_is_the_model_and_nothing_but_a_graph_can_be_chosen() -> None:
    assert model_of(("a.onnx", "b.onnx"), "b.onnx") == "b.onnx"
    with pytest.raises(AdmissionRefused, match=r"'weights\.bin', which the reference chooses, is no \.onnx file of it"):
        model_of(("a.onnx", "b.onnx"), "weights.bin")


def test_what_lies_beside_models_is_let_in() -> None:
    beside = {
        "README.md": "ünï".encode(),
        "LICENSE": b"Apache",
        "MLmodel": b"flavors: {}",
        "config.json": b"{}",
        "labels.txt": b"cat\ndog",
        "tokenizer.model": b"\x0a\x0e\0",
        "config.pbtxt": b'name: "net"',
        "1/model.onnx": GRAPH,
        "model.sig": b"{}",
        ".gitattributes": b"",
    }
    assert check_formats(beside, may_bring_code=False) == ("1/model.onnx",)


def test_text_that_is_cut_within_a_character_is_still_text() -> None:
    head = (b"x" * (HEAD_BYTES - 1) + "é".encode())[:HEAD_BYTES]
    assert check_formats({"labels.txt": head, "m.onnx": GRAPH}, may_bring_code=False) == ("m.onnx",)
    with pytest.raises(AdmissionRefused, match="is not the text"):
        check_formats({"labels.txt": head[:-1] + b"\xff", "m.onnx": GRAPH, "z.txt": b"\xc3"}, may_bring_code=False)


def test_code_is_let_in_only_where_triton_looks_for_it_and_only_when_that_is_allowed() -> None:
    files = {"pre/1/model.py": b"import os", "net/1/model.onnx": GRAPH}
    assert check_formats(files, may_bring_code=True) == ("net/1/model.onnx",)
    with pytest.raises(AdmissionRefused, match=r"trust everybody who can publish it: set allow_python_models"):
        check_formats(files, may_bring_code=False)
    with pytest.raises(AdmissionRefused, match=r"'helper.py' is code; export the model to ONNX$"):
        check_formats({**files, "helper.py": b""}, may_bring_code=True)


def test_weights_are_let_in_because_a_graph_names_them() -> None:
    heads = {"model.onnx": GRAPH, "model.onnx_data": b"\x80\x04", "more.bin": b"\x80\x04"}
    check_claims(heads, ["model.onnx_data", "more.bin"])
    with pytest.raises(AdmissionRefused, match=r"'more.bin' begins like a pickle"):
        check_claims(heads, ["model.onnx_data"])
    with pytest.raises(AdmissionRefused, match=r"no graph keeps its weights in 'a.bin', 'b.bin', 'c.bin' and 1 more"):
        check_claims({f"{name}.bin": b"" for name in "dcba"}, [])


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([("a", 1), ("b", 1), ("c", 1)], "has 3 files, more than 2; .* raise the limit max_files"),
        ([("a", 60), ("b", 41)], "has 101 bytes, more than 100; .* raise the limit max_bytes"),
    ],
)
def test_a_model_over_a_limit_is_refused(sizes: list[tuple[str, int]], words: str) -> None:
    limits = SourceLimits(max_files=2, max_bytes=100)
    with pytest.raises(AdmissionRefused, match=words):
        check_size(tree(*sizes), limits)
    check_size(tree(("a", 60), ("b", 40)), limits)


def test_a_graph_ends_at_two_gibibytes() -> None:
    with pytest.raises(AdmissionRefused, match="a graph ends at 2 GiB; save the model with external data"):
        check_size(tree(("model.onnx", 10 * 1024**3)), SourceLimits())
    check_size(tree(("weights.bin", 10 * 1024**3)), SourceLimits())
