"""Words that nobody may find where they do not belong, and the looking for them everywhere."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.system.gateway import Gateway


@dataclass(slots=True)
class Canaries:
    """Secrets by what they are for, and the files that are there to hold one."""

    words: dict[str, bytes] = field(default_factory=dict)
    homes: dict[str, frozenset[Path]] = field(default_factory=dict)

    def new(self, what: str, *homes: Path) -> str:
        """`homes`: files that may hold it."""
        word = f"canary{secrets.token_hex(12)}"
        self.add(what, word, *homes)
        return word

    def add(self, what: str, word: str, *homes: Path) -> None:
        self.words[what] = word.encode()
        self.homes[what] = frozenset(homes)

    def add_key(self, what: str, file: str) -> None:
        """Of a private key, a line from its middle."""
        self.add(what, Path(file).read_text().splitlines()[2], Path(file))

    def found_in(self, name: str, content: bytes, but: Iterable[str] = ()) -> list[str]:
        """`but`: what may stand there."""
        excused = set(but)
        return [f"{what} in {name}" for what, word in self.words.items() if what not in excused and word in content]

    def found_in_files(self, folder: Path) -> list[str]:
        found = []
        for path in folder.rglob("*"):
            if not path.is_file() or path.is_symlink():
                continue
            at_home = [what for what, homes in self.homes.items() if path in homes]
            found += self.found_in(str(path), path.read_bytes(), at_home)
        return found


def of_processes(gateway: Gateway) -> dict[str, tuple[bytes, bytes]]:
    """What everybody on the machine sees of each process, and what its environment holds; by kind and id."""
    seen = {}
    for process in gateway.processes():
        try:
            environment = "\0".join(f"{name}={value}" for name, value in process.environ().items())
            seen[f"{process.name()} {process.pid}"] = (
                "\0".join(process.cmdline()).encode(),
                environment.encode(),
            )
        except psutil.Error:
            continue  # it has ended meanwhile
    return seen


def of_envoy(gateway: Gateway, *pages: str) -> dict[str, bytes]:
    transport = httpx.HTTPTransport(uds=str(gateway.run_dir / "envoy.sock"))
    with httpx.Client(transport=transport, base_url="http://envoy", timeout=30) as envoy:
        return {f"envoy's {page}": envoy.get(page).content for page in pages}


def of_admin(get: Callable[[str], httpx.Response], *paths: str) -> dict[str, bytes]:
    answers = {}
    for path in paths:
        answer = get(path)
        assert answer.status_code == 200, (path, answer.text)
        answers[path] = answer.content
    return answers
