"""The home folder of our own Ray head: with one of its own it asks nobody on the network in which cloud it runs.

Without `~/ray_bootstrap_config.yaml` it does, at 169.254.169.254 and metadata.google.internal, also when it is to
report no usage, and no variable stops it (ray/_common/usage/usage_lib.py, `get_cluster_config_to_report`). Workers
inherit the head's environment, so replicas take the user's home back.
"""

from __future__ import annotations

import os
import site
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_USERS_HOME = "CROSSFADE_USERS_HOME"
_CONFIG = "ray_bootstrap_config.yaml"


def with_a_home_of_its_own(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment for a Ray head. Makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, _CONFIG).write_text("{}\n")
    return {
        "PYTHONUSERBASE": site.getuserbase(),  # where packages are does not change
        **environment,
        _USERS_HOME: environment.get("HOME") or os.path.expanduser("~"),
        "HOME": str(folder),
    }


def take_users_home_back(environment: MutableMapping[str, str]) -> None:
    """In a worker's process."""
    if users_home := environment.get(_USERS_HOME):
        environment["HOME"] = users_home
