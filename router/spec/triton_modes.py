"""Which of the two kinds of `triton` block a deployment has: the word after `mode` tells, and both are read by it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from router.domain.triton import TritonMode
from router.domain.triton_managed import ManagedMode
from router.spec.nodes import MapNode, Node, ScalarNode, describe
from router.spec.problems import nearest
from router.spec.reading import At

# What is said of a key of one kind of block in the other.
OF_MANAGED = MappingProxyType(
    dict.fromkeys(
        ("max_queue_delay_us", "preferred_batch_sizes", "warm_up", "start_timeout_s"),
        "it goes with mode managed; Tritons that run already have their own config.pbtxt",
    )
)
OF_RUNNING = MappingProxyType(
    dict.fromkeys(
        ("servers", "version", "sequences", "tls", "restricted"),
        "it goes with modes direct and bridge, for Tritons that run already; what a managed one runs is named by the "
        "deployment's own key 'model'",
    )
)

_MODES = (*map(str, TritonMode), *map(str, ManagedMode))


def is_managed(deployment: Node) -> bool:
    """Whether a deployment's `triton` block asks for a Triton of its own, which stands beside a model.

    A mode that there is not is taken for that one where a model stands beside it, so that its word alone is told.
    """
    mode = _value(_value(deployment, "triton"), "mode")
    if mode is None or _is_known(mode):
        return mode is not None and mode.value == str(ManagedMode.MANAGED)
    return _value(deployment, "model") is not None


def refused_mode(block: Node, at: At) -> bool:
    """Whether the block's mode is none of Triton's, which is then reported: what else stands there depends on it."""
    mode = _value(block, "mode")
    if mode is None or _is_known(mode):
        return False
    word = mode.value if isinstance(mode, ScalarNode) else None
    near = nearest(word, _MODES) if isinstance(word, str) else None
    hint = f"did you mean {near!r}?" if near else ""
    at.key("mode").wrong(mode, f"must be one of {', '.join(_MODES)}, not {describe(mode)}", hint)
    return True


def _is_known(mode: Node) -> bool:
    return isinstance(mode, ScalarNode) and mode.value in (None, *_MODES)


def _value(node: Any, name: str) -> Any:
    entries = node.entries if isinstance(node, MapNode) else ()
    return next((value for key, value in entries if key.value == name), None)
