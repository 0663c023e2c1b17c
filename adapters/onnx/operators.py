"""Which operators a model may name. ONNX Runtime has others, and programs can add more: they run somebody's code."""

from __future__ import annotations

from router.models.ports import AdmissionRefused
from router.models.trial import Check

# "ai.onnx" is the long name of "". The last two are what ONNX Runtime writes when it saves an optimised graph.
DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"))

# Of com.microsoft, in some builds: machine code of an accelerator's compiler, and calls into Python or PyTorch.
_CODE = frozenset(("EPContext", "PythonOp", "PythonOpGrad", "ATen", "Triton", "TritonOp"))


def check_operator(path: str, domain: str, operator: str, node: str, is_function: bool) -> None:
    """`is_function`: the model has a function of this name. Raises `AdmissionRefused`."""
    where = f"{path!r}: node {node!r}" if node else f"{path!r}: a node"
    if domain not in DOMAINS and not is_function:
        raise AdmissionRefused(
            Check.GRAPH,
            f"{where} wants the operator {operator!r} of {domain!r}, a custom domain",
            "export the model with standard ONNX operators, or with the function's body in it",
        )
    if operator in _CODE:
        raise AdmissionRefused(
            Check.GRAPH, f"{where} is {operator!r}, which carries or calls code", "export the model as a plain graph"
        )
