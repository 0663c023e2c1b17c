"""The home folders of Ray's head and of its workers."""

from __future__ import annotations

import json
from pathlib import Path

from adapters.ray.home import take_users_home_back, with_a_home_of_its_own


def test_the_head_of_ray_finds_a_configuration_in_its_home_and_workers_the_users_home(tmp_path: Path) -> None:
    home = tmp_path / "run/home"
    before = {"HOME": "/home/ann", "PATH": "/bin", "PYTHONUSERBASE": "/opt/python"}
    head = with_a_home_of_its_own(before, home)

    assert head["HOME"] == str(home)
    assert json.loads((home / "ray_bootstrap_config.yaml").read_text()) == {}  # JSON is YAML
    take_users_home_back(head)
    assert {name: head[name] for name in before} == before


def test_a_worker_of_somebody_elses_ray_keeps_its_home() -> None:
    environment = {"HOME": "/home/ray"}
    take_users_home_back(environment)

    assert environment == {"HOME": "/home/ray"}
