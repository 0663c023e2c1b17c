"""The log files of replicas: Ray Serve writes one per replica, into the folder that `RayRuntime` gives it."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

from adapters.ray.names import app_name

_NEWEST_FILES = 8


class ReplicaLogs:
    """Implements `router.admin_ports.Logs`. Files of replicas on other hosts are not here."""

    def __init__(self, directory: Path, gateway_id: str) -> None:
        self._directory = directory
        self._gateway_id = gateway_id

    async def tail(self, endpoint: str, deployment: str, lines: int) -> list[str]:
        return await asyncio.to_thread(self._tail, endpoint, deployment, lines)

    def _tail(self, endpoint: str, deployment: str, lines: int) -> list[str]:
        prefix = f"replica_{app_name(self._gateway_id, endpoint, deployment, '')}"
        files = [path for path in self._directory.glob("replica_*.log") if path.name.startswith(prefix)]
        newest = sorted(files, key=lambda path: path.stat().st_mtime)[-_NEWEST_FILES:]
        found: deque[str] = deque(maxlen=lines)
        for path in newest:
            with path.open(errors="replace") as file:
                found.extend(line.rstrip("\n") for line in file)
        return list(found)
