"""Fetching one file over a link that breaks: resume where it broke, bounded tries, what came is never fetched again.

Decided here: when to try again. A try that brought something useful may be followed at once, as often as it takes;
those that bring nothing are counted. A source that begins at the start whenever it is asked for the rest is given a few
chances as well: on a link that breaks, it would never end.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from adapters.model_cache.parts import Part, in_words
from router.domain.errors import ModelUnavailable
from router.models.cache_ports import Progress, Read
from router.models.ports import AccessDenied, RemoteFile, SourceUnavailable

# What is written at once. Two of them and a chunk are in memory at most, whatever the size of the file.
_BATCH_BYTES = 4 * 1024 * 1024
_LONGEST_HELD_S = 1.0  # on a slow line: who is killed has lost no more than that
_USEFUL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """`tries` in a row that bring nothing, with pauses that double. A link that is silent for `silence_s` is broken."""

    tries: int = 6
    first_pause_s: float = 0.25
    longest_pause_s: float = 30.0
    silence_s: float = 120.0

    def pause_s(self, failures: int, retry_after_s: float) -> float:
        """Before the next try, after so many failures in a row. Jitter keeps many machines apart."""
        pause_s = min(self.longest_pause_s, self.first_pause_s * 2.0 ** (failures - 1))
        return max(pause_s * random.uniform(0.5, 1.0), min(retry_after_s, self.longest_pause_s))


async def download(
    read: Read,
    file: RemoteFile,
    part: Part,
    most: int,
    patience: Patience,
    progress: Progress,
    writer: ThreadPoolExecutor,
) -> None:
    """Complete `part`. `most`: how large the file may be at the most, in bytes.

    Raises `SourceUnavailable` when the patience is over, `ModelUnavailable` for a file that is larger than announced or
    allowed, and what the source and the disk raise.
    """
    failures = restarts = 0
    furthest = part.size
    while part.size != file.size:
        begun_at = part.size
        try:
            await _receive(read, file, part, most, patience.silence_s, progress, writer)
            break
        except SourceUnavailable as error:
            trouble, retry_after_s = str(error), error.retry_after_s
        except AccessDenied:
            raise
        except _BeganAgain as again:
            restarts += 1
            trouble, retry_after_s = f"it cannot begin in the middle, and {again}", 0.0
        except ModelUnavailable:
            if begun_at == 0 or file.size >= 0:
                raise
            # Of unknown size: perhaps nothing was missing but the end, and there is no such range.
            restarts += 1
            trouble, retry_after_s = "the rest was refused", 0.0
            progress.lost(part.size)
            part.restart()
        failures = 0 if part.size >= furthest + _USEFUL_BYTES else failures + 1
        furthest = max(furthest, part.size)
        if max(failures, restarts) >= patience.tries:
            had = f"{in_words(furthest)}{f' of {in_words(file.size)}' if file.size >= 0 else ''}"
            raise SourceUnavailable(f"{file.path}: gave up after {patience.tries} tries at {had}: {trouble}")
        if failures:
            progress.waits(trouble)
            await asyncio.sleep(patience.pause_s(failures, retry_after_s))
            progress.waits("")


class _BeganAgain(Exception):
    """The link broke under a source that had to begin at the start."""


async def _receive(
    read: Read,
    file: RemoteFile,
    part: Part,
    most: int,
    silence_s: float,
    progress: Progress,
    writer: ThreadPoolExecutor,
) -> None:
    """One try. What came before the link broke is written."""
    loop = asyncio.get_running_loop()
    has_begun_again = False
    try:
        async with read(file, part.size) as stream:
            if stream.path:
                is_taken = await loop.run_in_executor(writer, _taken, part, stream.path, file.size, progress)
                if is_taken:
                    _check_size(file, part.size, most)
                    return
            if stream.starts_at not in (0, part.size):
                raise ModelUnavailable(f"{file.path}: asked for byte {part.size}, and byte {stream.starts_at} came")
            if stream.starts_at != part.size:
                has_begun_again = True
                progress.lost(part.size)
                part.restart()
            received = part.size
            batch: list[bytes] = []
            held, since_s = 0, time.monotonic()
            writing: asyncio.Future[None] | None = None
            try:
                async for chunk in _heard(stream.chunks, silence_s):
                    received += len(chunk)
                    held += len(chunk)
                    _check_size(file, received, most)
                    progress.has(len(chunk), is_new=True)
                    batch.append(chunk)
                    if held >= _BATCH_BYTES or time.monotonic() - since_s >= _LONGEST_HELD_S:
                        if writing:
                            await writing
                        writing = loop.run_in_executor(writer, part.append, _joined(batch))
                        batch, held, since_s = [], 0, time.monotonic()
            finally:
                if writing:
                    await writing
                if batch:
                    await loop.run_in_executor(writer, part.append, _joined(batch))
        if 0 <= part.size < file.size:
            raise SourceUnavailable(f"it ended after {part.size} of {file.size} bytes")
    except SourceUnavailable as error:
        if has_begun_again:
            raise _BeganAgain(str(error)) from error
        raise


def _taken(part: Part, path: str, size: int, progress: Progress) -> bool:
    had = part.size
    if not part.take(Path(path), size):
        return False
    progress.lost(had)
    progress.has(part.size, is_new=False)  # the source told when it came
    return True


async def _heard(chunks: AsyncIterator[bytes], silence_s: float) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(silence_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SourceUnavailable(f"nothing came for {silence_s:g} s") from None
        yield chunk


def _check_size(file: RemoteFile, received: int, most: int) -> None:
    if 0 <= file.size < received:
        raise ModelUnavailable(f"{file.path}: more came than the {file.size} bytes that were announced")
    if received > most:
        raise ModelUnavailable(f"{file.path}: larger than the {in_words(most)} that a model may have")


def _joined(batch: Sequence[bytes]) -> Sequence[bytes]:
    """Few large pieces: every piece costs the writing thread a turn at the interpreter's lock."""
    return batch if len(batch) < 8 else (b"".join(batch),)
