"""Models that must never get traffic, as files that any source may bring, and what has to be said of each.

`HOSTILE` is for whoever fetches models as well: publish `files()`, pull them, and expect the same refusal.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from router.models.trial import Check
from tests.admission import graphs
from tests.admission.graphs import external, field, in_branch, in_function, model, relu, scaled

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Hostile:
    """`words`: a part of the message that no other refusal has."""

    name: str
    files: Callable[[], Files]
    check: Check
    words: str


def _with(name: str, content: bytes) -> Callable[[], Files]:
    """A good model and something beside it."""
    return lambda: {"model.onnx": relu(), name: content}


def _graph(make: Callable[[], bytes], **beside: bytes) -> Callable[[], Files]:
    return lambda: {"model.onnx": make(), **{name.replace("_", "."): content for name, content in beside.items()}}


def _located(**entries: str) -> Callable[[], Files]:
    """A good model with 8 bytes of weights in `weights.bin`, or wherever it says."""
    return lambda: {"model.onnx": scaled(external(**entries)), "weights.bin": bytes(8)}


def _triton(config: bytes) -> Callable[[], Files]:
    return lambda: {"net/1/model.onnx": relu(), "net/config.pbtxt": config}


def _zip() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(print))
    return archive.getvalue()


def _claiming(dims: list[int]) -> bytes:
    return scaled(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(4)))


def _graph_twice() -> bytes:
    evil = scaled(external(location="weights.bin"))
    return relu() + evil  # two messages one after the other are one message


def _with_domain(domain: str, operator: str) -> bytes:
    graph = graphs.graph_of([helper.make_node(operator, ["x"], ["y"], "crypt", domain=domain)])
    return graphs.proto_of(graph, {"": 21, domain: 1}).SerializeToString()


def _header(ir_version: int, opset: int) -> bytes:
    proto = ModelProto.FromString(relu())
    proto.ir_version = ir_version
    proto.opset_import[0].version = opset
    return proto.SerializeToString()


def _training() -> bytes:
    proto = ModelProto.FromString(relu())
    proto.training_info.add()
    return proto.SerializeToString()


def _bomb() -> bytes:
    levels = {f"f{at}": [f"f{at + 1}"] * 10 for at in range(7)}
    return graphs.calls({**levels, "f7": ["Identity"]})


def _maps() -> bytes:
    """A classifier as scikit-learn's converter writes it by default."""
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])]
    map_type = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    y = helper.make_value_info("y", helper.make_sequence_type_proto(map_type))
    graph = helper.make_graph(nodes, "net", [graphs.value("x")], [y])
    return graphs.proto_of(graph, {"": 21, "ai.onnx.ml": 3}).SerializeToString()


_DENSE = numpy_helper.from_array(np.ones(2, np.float32), "w")
_OUT = external(location="../outside.bin")

HOSTILE = (
    # What runs code when it is opened, by name and by content.
    Hostile("a pickle", _with("model.pkl", pickle.dumps(print)), Check.FORMATS, "'model.pkl' is a pickle"),
    Hostile("a pickle in capitals", _with("MODEL.PKL", b"x"), Check.FORMATS, "'MODEL.PKL' is a pickle"),
    Hostile("a joblib dump", _with("net.joblib", b"x"), Check.FORMATS, "'net.joblib' is a pickle"),
    Hostile("a PyTorch file", _with("model.pt", _zip()), Check.FORMATS, "'model.pt' is a PyTorch file"),
    Hostile("a Keras file", _with("model.h5", b"\x89HDF\r\n\x1a\n"), Check.FORMATS, "'model.h5' is a Keras file"),
    Hostile("a NumPy file", _with("a/table.npy", b"\x93NUMPY"), Check.FORMATS, "'a/table.npy' is a NumPy file"),
    Hostile("Python code", _with("setup.py", b"import os"), Check.FORMATS, "'setup.py' is code"),
    Hostile("a library", _with("ops/libcustom.so", b"\x7fELF"), Check.FORMATS, "is a library"),
    Hostile("a compiled engine", _with("1/model.plan", b"ftrt"), Check.FORMATS, "is a compiled engine"),
    Hostile(
        "an archive", _with("more.tar.gz", gzip.compress(b"")), Check.FORMATS, "is an archive, which is not unpacked"
    ),
    Hostile(
        "Triton's Python backend",
        lambda: {"pre/1/model.py": b"import os", "net/1/model.onnx": relu()},
        Check.FORMATS,
        "set allow_python_models",
    ),
    Hostile("a program called labels", _with("labels.txt", b"\x7fELF\2\1\1"), Check.FORMATS, "begins like a program"),
    Hostile("an archive called config", _with("config.json", _zip()), Check.FORMATS, "begins like an archive"),
    Hostile("a pickle called vocabulary", _with("vocab.txt", b"\x80\4\x95\0\0"), Check.FORMATS, "is not the text"),
    Hostile("a pickle without a suffix", _with("state", pickle.dumps(print)), Check.FORMATS, "begins like a pickle"),
    Hostile(
        "a file that nobody names", _with("extra.bin", bytes(8)), Check.FORMATS, "keeps its weights in 'extra.bin'"
    ),
    Hostile("no model at all", lambda: {"config.json": b"{}"}, Check.FORMATS, "there is no .onnx file"),
    Hostile("two models", lambda: {"a.onnx": relu(), "b.onnx": relu()}, Check.FORMATS, "there are 2 .onnx files"),
    Hostile("ONNX Runtime's format", _graph(lambda: bytes(4) + b"ORTM" + bytes(64)), Check.FORMATS, "own format"),
    # Text that makes Triton load code or read elsewhere.
    *(
        Hostile(f"a Triton configuration with {name}", _triton(config), Check.FORMATS, words)
        for name, config, words in (
            ("a library", b'model_operations {op_library_filename: "/tmp/x.so"}', "loads code: model_operations"),
            ("a runtime", b'runtime: "libtriton_x.so"', "loads code: runtime"),
            ("an agent", b'model_repository_agents {agents {name: "x"}}', "loads code: model_repository_agents"),
            ("an environment", b'parameters {key: "EXECUTION_ENV_PATH" value {}}', "loads code: EXECUTION_ENV_PATH"),
            ("Python in two parts", b'backend: "pyth" "on"', "asks for 'python'"),
            ("TorchScript", b'platform: "pytorch_libtorch"', "asks for 'pytorch_libtorch'"),
            ("a file elsewhere", b'default_model_filename: "../../x.onnx"', "names the file '../../x.onnx'"),
            ("a mistake", b"max_batch_size: many", "is no configuration of Triton's"),
        )
    ),
    # No ONNX.
    Hostile("a login page", _graph(lambda: b"<!DOCTYPE html><html>"), Check.GRAPH, "is not an ONNX model: it"),
    Hostile("nothing", _graph(lambda: b""), Check.GRAPH, "'model.onnx' is empty"),
    Hostile("half a model", _graph(lambda: relu()[:-20]), Check.GRAPH, "it ends inside a field"),
    Hostile("a number without end", _graph(lambda: b"\x08" + b"\xff" * 20), Check.GRAPH, "more than 64 bits"),
    Hostile("a model without a graph", _graph(lambda: b"\x08\x0a"), Check.GRAPH, "it has no graph"),
    Hostile(
        "a name of a megabyte", _graph(lambda: field(7, field(1, field(1, b"x" * 2**20)))), Check.GRAPH, "a name of"
    ),
    Hostile("two graphs in one", _graph(_graph_twice, weights_bin=bytes(8)), Check.GRAPH, "a graph given 2 times"),
    Hostile("a training graph", _graph(_training), Check.GRAPH, "holds a training graph"),
    # Weights elsewhere.
    Hostile(
        "/etc/passwd as weights", _located(location="/etc/passwd"), Check.GRAPH, "'/etc/passwd', which is not a plain"
    ),
    Hostile(
        "weights above", _located(location="../outside.bin"), Check.GRAPH, "'../outside.bin', which is not a plain"
    ),
    Hostile("weights up and down", _located(location="a/../weights.bin"), Check.GRAPH, "'a/../weights.bin', which"),
    Hostile(
        "weights with backslashes", _located(location="..\\outside.bin"), Check.GRAPH, r"outside.bin', which is not"
    ),
    Hostile("weights behind a NUL", _located(location="weights.bin\0.txt"), Check.GRAPH, r"\x00.txt', which is not"),
    Hostile(
        "weights that are missing", _located(location="other.bin"), Check.GRAPH, "'other.bin', which is no file of"
    ),
    Hostile(
        "weights in memory", _located(location="*/_ORT_MEM_ADDR_/*"), Check.GRAPH, "_ORT_MEM_ADDR_/*', which is no"
    ),
    Hostile("weights without a file", _located(offset="0"), Check.GRAPH, "in a file that it does not name"),
    Hostile(
        "weights past the end", _located(location="weights.bin", offset="4"), Check.GRAPH, "takes 8 bytes and has 4"
    ),
    Hostile(
        "weights longer than their file",
        _located(location="weights.bin", length="9000000000"),
        Check.GRAPH,
        "reaches to byte 9000000000",
    ),
    Hostile(
        "weights before the start", _located(location="weights.bin", offset="-8"), Check.GRAPH, "the offset of the"
    ),
    Hostile(
        "a way to files of one's own", _located(location="weights.bin", basepath="/"), Check.GRAPH, "tells 'basepath'"
    ),
    Hostile("outside, in a branch", _graph(lambda: in_branch(_OUT)), Check.GRAPH, "'w' is in '../outside.bin'"),
    Hostile("outside, in a function", _graph(lambda: in_function(_OUT)), Check.GRAPH, "'w' is in '../outside.bin'"),
    Hostile(
        "sparse weights in a file",
        lambda: {"model.onnx": graphs.sparse(external(location="weights.bin"), [2]), "weights.bin": bytes(8)},
        Check.GRAPH,
        "the sparse tensor 'w' has its values in a file",
    ),
    # Small files that grow.
    Hostile(
        "64 GB in four bytes", _graph(lambda: _claiming([2**34])), Check.GRAPH, "takes 68719476736 bytes and has 4"
    ),
    Hostile("more axes than numbers", _graph(lambda: _claiming([1] * 100)), Check.GRAPH, "the shape [1, 1, 1, 1"),
    Hostile("less than nothing", _graph(lambda: _claiming([-1, -4])), Check.GRAPH, "the shape [-1, -4]"),
    Hostile(
        "a sparse terabyte", _graph(lambda: graphs.sparse(_DENSE, [2**37])), Check.GRAPH, "unfolds to more than 1 GiB"
    ),
    Hostile("subgraphs without end", _graph(lambda: graphs.nested(2000)), Check.GRAPH, "more than 30 deep"),
    Hostile("functions that multiply", _graph(_bomb), Check.GRAPH, "unfold to more than 1000000 nodes"),
    Hostile(
        "functions in a circle",
        _graph(lambda: graphs.calls({"a": ["b"], "b": ["Identity", "a"]})),
        Check.GRAPH,
        "calls itself",
    ),
    # Graphs that are none.
    Hostile(
        "nodes in a circle",
        _graph(lambda: model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])),
        Check.GRAPH,
        "2 nodes of the graph 'net' wait for one another",
    ),
    Hostile(
        "one name for two values",
        _graph(lambda: model([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])])),
        Check.GRAPH,
        "'y' is defined twice",
    ),
    # Code by other ways.
    Hostile(
        "an operator of one's own", _graph(lambda: _with_domain("com.evil", "Run")), Check.GRAPH, "'Run' of 'com.evil'"
    ),
    Hostile(
        "a compiled node", _graph(lambda: _with_domain("com.microsoft", "EPContext")), Check.GRAPH, "is 'EPContext'"
    ),
    # What the installed runtime does not take.
    Hostile("an opset of the future", _graph(lambda: _header(10, 99)), Check.RUNTIME, "opsets ai.onnx 99, which ONNX"),
    Hostile("an IR of the future", _graph(lambda: _header(999, 21)), Check.RUNTIME, "IR version 999 and"),
    Hostile(
        "an operator that is none",
        _graph(lambda: model([helper.make_node("Relo", ["x"], ["y"])])),
        Check.RUNTIME,
        "'model.onnx' did not load",
    ),
    Hostile("answers that are maps", _graph(_maps), Check.RUNTIME, "with zipmap off"),
    # What shows only when it runs.
    Hostile(
        "a loop of 2^62 turns", _graph(lambda: graphs.loop(2**62)), Check.TIME, "while answering its first request"
    ),
    Hostile("64 GB of zeros", _graph(lambda: graphs.huge_constant(2**34)), Check.MEMORY, "buffer of size 68719476736"),
)
