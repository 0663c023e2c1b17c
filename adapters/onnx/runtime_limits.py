"""Which IR versions and opsets the installed ONNX Runtime takes. It does not say, so it is asked.

A model of one node with the same header loads in half a millisecond, and is refused for its header alone, in ONNX
Runtime's words. A table of versions here would be wrong after the next release.
"""

from __future__ import annotations

import onnxruntime as ort

from adapters.onnx.words import plain_words
from router.models.ports import AdmissionRefused
from router.models.trial import Check, GraphFacts

_DEFAULT_OPSET = 13  # where a model names none; Identity has been there since 1
_FLOAT = 1
_FATAL = 4


def runtime_name() -> str:
    return f"ONNX Runtime {ort.__version__}"


def check_versions(facts: GraphFacts) -> None:
    """Raises `AdmissionRefused`."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = 1
    try:
        ort.InferenceSession(header_only(facts.ir_version, facts.opsets), settings, ["CPUExecutionProvider"])
    except Exception as error:
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in facts.opsets) or "none"
        raise AdmissionRefused(
            Check.RUNTIME,
            f"{facts.path!r} has IR version {facts.ir_version} and opsets {opsets}, which {runtime_name()} does not"
            f" take: {plain_words(error)}",
            "export it for an older opset, or upgrade Crossfade",
        ) from None


def header_only(ir_version: int, opsets: tuple[tuple[str, int], ...]) -> bytes:
    """A ModelProto that gives back its input, and says this of itself."""
    if not any(domain in ("", "ai.onnx") for domain, _ in opsets):
        opsets = (*opsets, ("", _DEFAULT_OPSET))
    shape = _field(1, _field(1, b""))
    tensor = _field(1, _number(1, _FLOAT) + _field(2, shape))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    values = [_field(number, _field(1, name) + _field(2, tensor)) for number, name in ((11, b"x"), (12, b"y"))]
    graph = _field(1, node) + _field(2, b"header") + b"".join(values)
    imports = [_field(8, _field(1, domain.encode()) + _number(2, version)) for domain, version in opsets]
    return _number(1, ir_version) + _field(7, graph) + b"".join(imports)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
