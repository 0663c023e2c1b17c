"""Which model a call names, and whether it is here."""

from __future__ import annotations

from collections.abc import Callable

from serving.errors import Unavailable, UnknownModel
from serving.ports import ScoringModel
from serving.server_view import ServerView
from serving.text import quoted


def check_model(name: str, version: str, served_name: str, served_version: str) -> None:
    """Raises `UnknownModel` unless that is the model here. An empty version means any."""
    if name != served_name:
        raise UnknownModel(f"unknown model {quoted(name)}")
    if version and version != served_version:
        raise UnknownModel(f"model {name!r} has no version {quoted(version)} here, it has {served_version!r}")


def served_model(model: ScoringModel | None, view: Callable[[], ServerView], name: str, version: str) -> ScoringModel:
    """`model`, when that is what the call names; raises `UnknownModel` otherwise.

    In a process that serves none (`model` is None): raises `Unavailable` when the server has such a model elsewhere.
    """
    if model is not None:
        check_model(name, version, model.name, model.version)
        return model
    if view().is_model_ready(name) is None:
        raise UnknownModel(f"unknown model {quoted(name)}")
    raise Unavailable(f"model {quoted(name)} has no replica that could answer")
