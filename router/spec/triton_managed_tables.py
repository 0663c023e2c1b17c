"""The keys of a deployment's `triton` block when a Triton is run for it (`mode: managed`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.domain.triton import TRITON_MODEL_PATTERN
from router.domain.triton_managed import MAX_PREFERRED, ManagedMode, ManagedTriton
from router.spec.nodes import Node
from router.spec.reading import WRONG, At
from router.spec.rollout_values import ListOf
from router.spec.sections import Key, Section
from router.spec.triton_modes import OF_RUNNING, refused_mode
from router.spec.triton_tables import Matching
from router.spec.values import Flag, OneOf, Whole

MANAGED_TRITON = Section(
    ManagedTriton,
    (
        Key(
            "mode",
            "mode",
            OneOf(ManagedMode),
            "managed: each replica starts a Triton of its own, which loads the model that the deployment's own key "
            "'model' names.",
            is_required=True,
        ),
        Key(
            "model",
            "model",
            Matching(TRITON_MODEL_PATTERN, "the name of a model's folder", "fraud"),
            "Where the deployment's model is a repository of several: the one that answers. Left out: its ensemble "
            "that is no part of another, or its only graph.",
        ),
        Key(
            "max_queue_delay_us",
            "max_queue_delay_us",
            Whole(0, 60_000_000),
            "For how many microseconds a request may wait for company although an instance of the model is free.",
        ),
        Key(
            "preferred_batch_sizes",
            "preferred_batch_sizes",
            ListOf(Whole(1, 65536), MAX_PREFERRED),
            "Numbers of rows, ascending, for which the model is much faster, such as those an engine was built for.",
        ),
        Key(
            "warm_up",
            "is_warmed_up",
            Flag(),
            "The model runs once, with zeros, before it is ready. Not done where its inputs have free axes or text. "
            "An ensemble answers a first request, made up from what it says to take, before it is ready.",
        ),
        Key(
            "start_timeout_s",
            "start_timeout_s",
            Whole(1, 3600),
            "For how many seconds Triton may load the model before it is started anew.",
        ),
    ),
    foreign=OF_RUNNING,
)


@dataclass(frozen=True, slots=True)
class ManagedBlock:
    """A `ManagedTriton`, which stands beside a model."""

    def read(self, node: Node, at: At) -> Any:
        return WRONG if refused_mode(node, at) else MANAGED_TRITON.read(node, at)

    def plain(self, value: Any) -> Any:
        return MANAGED_TRITON.plain(value)

    def schema(self) -> dict[str, Any]:
        return MANAGED_TRITON.schema()
