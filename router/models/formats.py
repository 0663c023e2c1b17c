"""Which files a model may bring, and which of them is the model. Pure.

A file is allowed for what it is: a graph, text for people and tokenizers, the layout of a Triton repository; weights
because a graph names them. What runs code when it is opened (pickle and all that is built on it, Python, libraries,
archives, engines) is refused by name, whatever it holds, and by its first bytes, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from posixpath import basename, splitext

from router.domain.model_tree import ModelTree, graph_of
from router.models.ports import AdmissionRefused, SourceLimits
from router.models.trial import Check

HEAD_BYTES = 512  # of each file that are looked at
MAX_GRAPH_BYTES = 2 * 1024**3  # Protocol Buffers end there

_CODE = {
    ".pkl": "a pickle, which runs code when it is read",
    ".pickle": "a pickle, which runs code when it is read",
    ".joblib": "a pickle, which runs code when it is read",
    ".pt": "a PyTorch file, which runs code when it is read",
    ".pth": "a PyTorch file, which runs code when it is read",
    ".ckpt": "a checkpoint, which runs code when it is read",
    ".npy": "a NumPy file, which may hold a pickle",
    ".npz": "a NumPy file, which may hold a pickle",
    ".h5": "a Keras file, which may hold code",
    ".hdf5": "a Keras file, which may hold code",
    ".keras": "a Keras file, which may hold code",
    ".pb": "a TensorFlow graph, which may read and write files",
    ".mar": "an archive with code",
    ".py": "code",
    ".pyc": "code",
    ".ipynb": "a notebook, which is code",
    ".sh": "code",
    ".js": "code",
    ".lua": "code",
    ".so": "a library, which is code",
    ".dll": "a library, which is code",
    ".dylib": "a library, which is code",
    ".exe": "a program",
    ".jar": "code",
    ".whl": "code",
    ".plan": "a compiled engine, which is code",
    ".engine": "a compiled engine, which is code",
    ".trt": "a compiled engine, which is code",
    ".ort": "a graph in ONNX Runtime's own format, which is not looked through",
    ".zip": "an archive, which is not unpacked",
    ".tar": "an archive, which is not unpacked",
    ".gz": "an archive, which is not unpacked",
    ".tgz": "an archive, which is not unpacked",
    ".7z": "an archive, which is not unpacked",
    ".xz": "an archive, which is not unpacked",
    ".bz2": "an archive, which is not unpacked",
}

_TEXT = frozenset(
    (".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".rst", ".csv", ".tsv", ".toml", ".pbtxt", ".vocab", ".labels")
)
_TEXT_NAMES = frozenset(
    ("MLmodel", "LICENSE", "NOTICE", "README", ".gitattributes", ".gitignore", ".gitkeep", ".keep", "labels", "vocab")
)
_TOKENIZERS = frozenset(("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"))  # data, and no text
_SIGNATURE = ".sig"

# First bytes that say for certain what a file is: long enough that weights do not begin like this by chance.
_MAGIC = (
    (b"\x7fELF", "a program or library"),
    (b"PK\x03\x04", "an archive, as PyTorch and Keras write them"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\xcf\xfa\xed\xfe", "a program or library"),
    (b"!<arch>\n", "a library"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ORT_FORMAT = b"ORTM"  # at byte 4

_ONLY = "publish only the model, its weights and text"

_TRITON_CODE = re.compile(r"(?:[^/]+/)?[0-9]+/model\.py")


class Kind(Enum):
    GRAPH = "graph"
    TEXT = "text"
    SIGNATURE = "signature"
    TOKENIZER = "tokenizer"
    CODE = "code"
    OTHER = "other"  # allowed when a graph names it


def check_size(tree: ModelTree, limits: SourceLimits) -> None:
    """Raises `AdmissionRefused`."""
    if len(tree.files) > limits.max_files:
        raise AdmissionRefused(
            Check.SIZE,
            f"the model has {len(tree.files)} files, more than {limits.max_files}",
            "publish only what serving needs, or raise the limit max_files",
        )
    if tree.size > limits.max_bytes:
        raise AdmissionRefused(
            Check.SIZE,
            f"the model has {tree.size} bytes, more than {limits.max_bytes}",
            "publish only what serving needs, or raise the limit max_bytes",
        )
    for file in tree.files:
        if kind_of(file.path) is Kind.GRAPH and file.size > MAX_GRAPH_BYTES:
            raise AdmissionRefused(
                Check.SIZE,
                f"{file.path!r} has {file.size} bytes, and a graph ends at 2 GiB",
                "save the model with external data",
            )


def kind_of(path: str) -> Kind:
    """By its name alone."""
    name = basename(path)
    suffix = splitext(name)[1].lower()
    if suffix == ".onnx":
        return Kind.GRAPH
    if suffix in _CODE:
        return Kind.CODE
    if suffix in _TEXT or name in _TEXT_NAMES:
        return Kind.TEXT
    if name in _TOKENIZERS:
        return Kind.TOKENIZER
    return Kind.SIGNATURE if suffix == _SIGNATURE else Kind.OTHER


def check_formats(heads: Mapping[str, bytes], may_bring_code: bool) -> tuple[str, ...]:
    """`heads`: path → the first `HEAD_BYTES`. Returns the graphs. Raises `AdmissionRefused`.

    `may_bring_code`: whether the `model.py` of a Triton repository may come. Nothing else of the kind ever may.
    """
    graphs = []
    for path, head in heads.items():
        match kind_of(path):
            case Kind.CODE if may_bring_code and _TRITON_CODE.fullmatch(path):
                _check_text(path, head)
            case Kind.CODE:
                what = _CODE[splitext(path)[1].lower()]
                hint = "export the model to ONNX"
                if _TRITON_CODE.fullmatch(path):
                    hint += ", or trust everybody who can publish it: set allow_python_models"
                raise _refused(f"{path!r} is {what}", hint)
            case Kind.GRAPH:
                _check_magic(path, head)
                if head[4:8] == _ORT_FORMAT:
                    raise _refused(f"{path!r} is {_CODE['.ort']}", "publish the ONNX file that it was made from")
                graphs.append(path)
            case Kind.TEXT | Kind.SIGNATURE:
                _check_text(path, head)
            case Kind.TOKENIZER | Kind.OTHER:
                _check_magic(path, head)
    if not graphs:
        raise _refused("there is no .onnx file", "export the model to ONNX")
    return tuple(graphs)


def model_of(graphs: tuple[str, ...], chosen: str = "") -> str:
    """Which of these is the model, `chosen` or not. Raises `AdmissionRefused` when that is not clear."""
    if chosen:
        if chosen not in graphs:
            raise _refused(f"{chosen!r}, which the reference chooses, is no .onnx file of it", "choose one that is")
        return chosen
    if graph := graph_of(graphs):
        return graph
    raise _refused(
        f"there are {len(graphs)} .onnx files ({_some(graphs)})",
        "choose one after a '#' in the reference, or publish one model",
    )


def check_claims(heads: Mapping[str, bytes], external: Iterable[str]) -> None:
    """Raises `AdmissionRefused` when a file is none of a known kind and no graph keeps its weights there."""
    claimed = set(external)
    strays = sorted(path for path in heads if kind_of(path) is Kind.OTHER and path not in claimed)
    for path in strays:
        if _PICKLE.match(heads[path]):
            raise _refused(f"{path!r} begins like a pickle, which runs code when it is read", _ONLY)
    if strays:
        raise _refused(f"no graph keeps its weights in {_some(strays)}, and its kind is unknown", _ONLY)


def _check_magic(path: str, head: bytes) -> None:
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise _refused(f"{path!r} begins like {what}", "publish the model that its name says")


def _check_text(path: str, head: bytes) -> None:
    _check_magic(path, head)
    try:
        head.decode()
        is_text = b"\0" not in head
    except UnicodeDecodeError as error:  # the last character may be cut in the middle
        is_text = b"\0" not in head and error.start > HEAD_BYTES - 4
    if not is_text:
        raise _refused(f"{path!r} is not the text that its name says", _ONLY)


def _some(paths: Iterable[str]) -> str:
    listed = [repr(path) for path in paths]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _refused(found: str, to_do: str) -> AdmissionRefused:
    return AdmissionRefused(Check.FORMATS, found, to_do)
