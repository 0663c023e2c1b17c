"""A real admin API on a free port, and the command line beside it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp
from typer.testing import CliRunner

from router.api import create_app
from router.cli.application import build
from tests.fake_rollouts import TwoPairs
from tests.fakes import TOKEN, Bench, FixedGateway, FixedLogs


class Served:
    """An ASGI application on a free loopback port, in a thread of its own."""

    def __init__(self, app: ASGIApp) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([listener])))
        self._thread.start()  # the socket listens already, so a client that is faster than the server waits

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Terminal:
    """Runs `crossfade …` against the gateway of this test."""

    url: str
    data_dir: Path
    bench: Bench
    gateway: FixedGateway
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str | None = None) -> Ran:
        env = {
            "CROSSFADE_ADMIN_URL": self.url,
            "CROSSFADE_DATA_DIR": str(self.data_dir),
            "CROSSFADE_TOKEN": None,
            "CROSSFADE_URL": None,
            "TERMINAL_WIDTH": "200",
            "COLUMNS": "200",
            **self.env,
        }
        ended = CliRunner().invoke(build(), list(arguments), input=stdin, env=env)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ran(ended.exit_code, ended.stdout, ended.stderr)

    def spec(self, text: str, name: str = "s.yaml") -> str:
        """Write a spec file and return its path."""
        path = self.data_dir / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    bench, gateway = Bench(), FixedGateway()
    (tmp_path / "admin.token").write_text(f"{TOKEN}\n")
    served = Served(create_app(bench.services(gateway, FixedLogs(), TwoPairs())))
    yield Terminal(served.url, tmp_path, bench, gateway)
    served.stop()
