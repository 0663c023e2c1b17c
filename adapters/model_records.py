"""Where models came from and what they were used for: a file of one JSON object a line, appended and synced.

A year of watching a model that is trained every hour does not make it grow without end: now and then what tells nothing
any more is left out, and the file is written anew, whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

from router.domain import plain
from router.domain.errors import Invalid, StoreFailed
from router.domain.provenance import History, Record, essential
from router.private_files import write_private

_THINNED_FROM = 1000  # records


@dataclass(frozen=True, slots=True)
class _Line:
    record: Record


class ModelRecords:
    """Implements `router.models.cache_ports.Records`. One process writes the file.

    A line that was cut short by a crash was not promised to anybody: it is left out, and the next one begins anew.
    """

    def __init__(self, path: Path) -> None:
        """Raises `StoreFailed`."""
        self._path = path
        self._lock = asyncio.Lock()
        self._history = self._read()
        self._most = _THINNED_FROM

    @property
    def history(self) -> History:
        return self._history

    async def append(self, record: Record) -> None:
        async with self._lock:
            await asyncio.to_thread(self._write, _line(record))
            self._history = self._history.with_(record)
            if len(self._history.records) > self._most:
                await asyncio.to_thread(self._thin_out)

    def _write(self, line: str) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                is_cut_short = end > 0 and file.read(1) != b"\n"
                file.write((b"\n" if is_cut_short else b"") + line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreFailed(f"{self._path} cannot be written: {error.strerror}") from error

    def _thin_out(self) -> None:
        left = essential(self._history.records)
        try:
            write_private(self._path, "".join(f"{_line(record)}\n" for record in left).encode())
        except OSError as error:
            raise StoreFailed(f"{self._path} cannot be written: {error.strerror}") from error
        self._history = History(left)
        self._most = max(_THINNED_FROM, 2 * len(left))

    def _read(self) -> History:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return History()
        except OSError as error:
            raise StoreFailed(f"{self._path} cannot be read: {error.strerror}") from error
        records = []
        for line in lines:
            try:
                content = json.loads(line)
            except ValueError:  # empty, or cut short
                continue
            try:
                records.append(plain.from_plain(_Line, {"record": content}).record)
            except Invalid as error:
                raise StoreFailed(f"{self._path} holds a record that this version cannot read: {error}") from error
        return History(tuple(records))


def _line(record: Record) -> str:
    return json.dumps(plain.to_plain(_Line(record))["record"])
