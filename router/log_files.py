"""Log files that do not fill the disk: what is full is renamed to .1, .1 to .2 and so on, and the oldest goes.

A log takes up to `max_bytes` and what is written between two looks, and as much again for each of the `kept` old ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import httpx

log = logging.getLogger("crossfade.log_files")

ACCESS_LOG = "access.jsonl"

_MIB = 1024 * 1024
_TIMEOUT_S = 5.0


def rotate_before_start(path: Path, max_bytes: int = 32 * _MIB, kept: int = 3) -> None:
    """For a log that nobody writes to yet. Never raises: a log that cannot be renamed must not keep a child away."""
    try:
        _rotate(path, max_bytes, kept)
    except OSError as error:
        log.warning("cannot rename the full log %s: %s", path, error)


async def keep_small(
    log_dir: Path, envoy_admin_socket: Path, max_bytes: int = 256 * _MIB, kept: int = 3, every_s: float = 10.0
) -> None:
    """Look after Envoy's access log until cancelled. What fails is tried again after `every_s`."""
    path = log_dir / ACCESS_LOG
    is_reopening_due = False  # until it reopens its logs, Envoy writes on into the renamed file
    trouble = ""
    transport = httpx.AsyncHTTPTransport(uds=str(envoy_admin_socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=_TIMEOUT_S) as envoy:
        while True:
            try:
                is_reopening_due = _rotate(path, max_bytes, kept) or is_reopening_due
                trouble = ""
            except OSError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("cannot rename the full log %s: %s", path, error)
            if is_reopening_due:
                is_reopening_due = not await _has_reopened_logs(envoy)
            await asyncio.sleep(every_s)


async def _has_reopened_logs(envoy: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.HTTPError):  # it may be starting again, and then opens the log anew by itself
        return (await envoy.post("/reopen_logs")).status_code == 200
    return False


def _rotate(path: Path, max_bytes: int, kept: int) -> bool:
    """Rename `path` when it has `max_bytes` or more, and say whether. Raises `OSError`."""
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return False
    if size < max_bytes:
        return False
    for number in range(kept - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(_old(path, number), _old(path, number + 1))
    os.replace(path, _old(path, 1))
    return True


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
