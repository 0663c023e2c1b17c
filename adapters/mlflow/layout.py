"""Which files of what MLflow logged are the model itself. Pure: names in, names out."""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import dirname

from router.models.layout import Layout, below_folder, is_signed, layout_of, the_onnx
from router.spec.nodes import MapNode, Node, ScalarNode, documents_of
from router.spec.problems import SpecProblems

MLMODEL = "MLmodel"
MAX_MLMODEL_BYTES = 256 * 1024

# What MLflow writes beside a model. External data of ONNX has a random name without a suffix there.
_OWN = frozenset(
    {
        MLMODEL,
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "registered_model_meta",
        "requirements.txt",
        "serving_input_example.json",
    }
)
_OWN_SUFFIXES = (".yaml", ".yml", ".json", ".txt", ".md", ".py", ".pkl")


def layout_in(paths: Sequence[str], mlmodel: bytes, inside: str) -> Layout:
    """`mlmodel`: what the file MLmodel holds, empty without one. Raises `ModelUnavailable`.

    What MLflow wrote beside a signed folder was not there when it was signed.
    """
    data = "" if inside else onnx_data(mlmodel)
    if not data:
        return layout_of([path for path in paths if path not in _OWN], inside)
    model = data if data in paths else the_onnx([path for path in paths if path.startswith(f"{data}/")])
    folder = dirname(model)
    if is_signed(paths, folder):
        return Layout(folder, below_folder([path for path in paths if path not in _OWN], folder))
    return Layout(folder, tuple(sorted(path for path in paths if dirname(path) == folder and not _is_own(path))))


def onnx_data(mlmodel: bytes) -> str:
    """`flavors.onnx.data`: the model's path beside MLmodel; "" when it has no ONNX flavor, or cannot be read."""
    try:
        documents = documents_of(mlmodel, MLMODEL)
    except SpecProblems:
        return ""
    node: Node | None = documents[0] if documents else None
    for key in ("flavors", "onnx", "data"):
        node = _entry(node, key)
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else ""


def _entry(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, MapNode):
        return None
    return next((value for name, value in node.entries if name.value == key), None)


def _is_own(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name in _OWN or name.endswith(_OWN_SUFFIXES)
