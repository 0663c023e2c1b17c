"""Every key of `watch`, which stands in `kind: Endpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from router.domain.errors import Invalid
from router.domain.watching import MAX_EVERY_S, MIN_EVERY_S, Recipe, Watch, WatchPolicy
from router.domain.window import WINDOW_PATTERN, Window
from router.spec.nodes import Node, ScalarNode, describe
from router.spec.reading import At
from router.spec.rollout_tables import RECIPE_KEYS, WrittenRecipe
from router.spec.rollout_values import Duration, Maybe, Translated
from router.spec.sections import Key, Section
from router.spec.values import OneOf


@dataclass(frozen=True, slots=True)
class WindowText:
    """`Mon-Fri 08:00-17:00 Europe/Berlin`."""

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            return at.wrong(node, f"must be a window, not {describe(node)}", "such as 'Mon-Fri 08:00-17:00 UTC'")
        try:
            return Window.parse(node.value, _zone)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: Window) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": WINDOW_PATTERN}


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # not there, not a name, a folder of zones
        return None


def _recipe(written: WrittenRecipe) -> Recipe:
    try:
        return Recipe(written.asked_strategy(), written.asked_policy())
    except Invalid as error:
        raise Invalid(error.key.removeprefix("watch.rollout."), error.message, error.hint) from None


def _written(recipe: Recipe) -> WrittenRecipe:
    return WrittenRecipe(**WrittenRecipe.parts(recipe.strategy, recipe.policy))


WATCH = Section(
    Watch,
    (
        Key(
            "policy",
            "policy",
            OneOf(WatchPolicy),
            "What happens when the reference of the deployment with the traffic names another model. auto: it is "
            "fetched, checked and rolled out. manual: fetched, checked and proposed. notify: only told.",
        ),
        Key(
            "every",
            "every_s",
            Duration(MIN_EVERY_S, MAX_EVERY_S),
            "How often the source is asked; less often while it does not answer.",
        ),
        Key(
            "window",
            "window",
            Maybe(WindowText()),
            "When a rollout may begin by itself, such as 'Mon-Fri 08:00-17:00 Europe/Berlin'. Left out: at any time.",
        ),
        Key(
            "rollout",
            "rollout",
            Translated(Section(WrittenRecipe, RECIPE_KEYS), _recipe, _written),
            "How such a rollout goes: the keys of kind: Rollout. Left out: canary. Its notify is told of new models.",
        ),
    ),
)
