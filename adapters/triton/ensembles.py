"""Finds in a model's folder what a Triton of ours serves of it, when that is a repository of several models."""

from __future__ import annotations

from pathlib import Path

from adapters.model_folder import read_tree
from adapters.triton.model_config import facts_of
from adapters.triton.repository import own_config
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ResolvedModel
from router.domain.triton_repository import CONFIG, Served, model_folders, served_of


def find_served(content: ResolvedModel, named: str) -> tuple[Served, dict[str, str]] | None:
    """What is served, and path → sha256 of all files. None: a single file, or a model's own folder. See `served_of`.

    Raises `ModelUnavailable`, also when a repository is not what was deployed.
    """
    root = Path(content.folder)
    if not content.folder or not (named or any(root.glob(f"*/**/{CONFIG}"))):
        return None
    tree = read_tree(root)
    if tree.digest != content.sha256:
        raise ModelUnavailable(
            f"the model is not what was deployed: its digest is {tree.digest}, expected {content.sha256}"
        )
    sums = {file.path: file.sha256 for file in tree.files}
    facts = {
        folder: facts_of(own_config(root / folder)) for folder in model_folders(sums) if f"{folder}/{CONFIG}" in sums
    }
    try:
        served = served_of(sums.keys(), facts, named)
    except Invalid as error:
        raise ModelUnavailable(f"{error.message}; {error.hint}" if error.hint else error.message) from None
    return (served, sums) if served is not None else None
