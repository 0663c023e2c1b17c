"""Fetching a blob over a link that breaks: goes on where it was, ends when that does not help, believes the digest."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapters.registries.oci_blob import fetched
from adapters.registries.oci_manifest import Blob
from router.domain.errors import ModelUnavailable
from router.models.ports import Download, SourceUnavailable

CONTENT = bytes(range(256)) * 40
BLOB = Blob(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
NO_PAUSES = (0.0, 0.0)


@dataclass
class Link:
    """Brings `content`, in each attempt as many bytes as `lasts` says, then breaks; the last number is for ever."""

    lasts: Sequence[int]
    content: bytes = CONTENT
    has_ranges: bool = True
    asked: list[int] = field(default_factory=list)
    sent: int = 0

    @asynccontextmanager
    async def fetch(self, offset: int) -> AsyncIterator[Download]:
        lasts = self.lasts[min(len(self.asked), len(self.lasts) - 1)]
        self.asked.append(offset)
        begin = offset if self.has_ranges else 0
        yield Download(begin, self._chunks(self.content[begin : begin + lasts], begin + lasts < len(self.content)))

    async def _chunks(self, content: bytes, breaks: bool) -> AsyncIterator[bytes]:
        for begin in range(0, len(content), 1000):
            chunk = content[begin : begin + 1000]
            self.sent += len(chunk)
            yield chunk
        if breaks:
            raise SourceUnavailable("the link broke")


async def test_a_link_that_breaks_again_and_again_brings_everything_once(tmp_path: Path) -> None:
    link = Link(lasts=[700])
    await fetched(tmp_path / "part", BLOB, link.fetch, "m", NO_PAUSES)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert link.sent == len(CONTENT)
    assert link.asked == list(range(0, len(CONTENT), 700))


async def test_what_an_earlier_attempt_left_is_not_fetched_again(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable):
        await fetched(tmp_path / "part", BLOB, Link(lasts=[4000, 0]).fetch, "m", NO_PAUSES)
    link = Link(lasts=[10**9])
    await fetched(tmp_path / "part", BLOB, link.fetch, "m", NO_PAUSES)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert link.asked == [4000]


async def test_a_link_that_brings_nothing_ends_after_bounded_attempts(tmp_path: Path) -> None:
    link = Link(lasts=[0])
    with pytest.raises(SourceUnavailable, match="the link broke"):
        await fetched(tmp_path / "part", BLOB, link.fetch, "m", NO_PAUSES)
    assert link.asked == [0, 0, 0]


async def test_a_server_without_ranges_on_a_link_that_breaks_ends_after_bounded_attempts(tmp_path: Path) -> None:
    link = Link(lasts=[3000, 4000, 3000, 5000, 3000], has_ranges=False)
    with pytest.raises(SourceUnavailable):
        await fetched(tmp_path / "part", BLOB, link.fetch, "m", NO_PAUSES)
    assert len(link.asked) == 4  # the first did bring something


async def test_a_server_without_ranges_is_begun_anew(tmp_path: Path) -> None:
    link = Link(lasts=[3000, 10**9], has_ranges=False)
    await fetched(tmp_path / "part", BLOB, link.fetch, "m", NO_PAUSES)
    assert (tmp_path / "part").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 100, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
async def test_rubbish_in_the_spool_costs_one_attempt_at_most(tmp_path: Path, left: bytes) -> None:
    part = tmp_path / "part"
    part.write_bytes(left)
    if len(left) <= len(CONTENT):
        with pytest.raises(ModelUnavailable, match="something else than it announced"):
            await fetched(part, BLOB, Link(lasts=[10**9]).fetch, "m", NO_PAUSES)
    await fetched(part, BLOB, Link(lasts=[10**9]).fetch, "m", NO_PAUSES)
    assert part.read_bytes() == CONTENT


async def test_more_than_was_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="larger than the"):
        await fetched(tmp_path / "part", BLOB, Link([10**9], CONTENT + b"x").fetch, "m", NO_PAUSES)
    assert (tmp_path / "part").read_bytes() == b""


async def test_less_than_was_announced_is_a_link_that_broke(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="ended after 10239 of 10240 bytes"):
        await fetched(tmp_path / "part", BLOB, Link([10**9], CONTENT[:-1]).fetch, "m", NO_PAUSES)
