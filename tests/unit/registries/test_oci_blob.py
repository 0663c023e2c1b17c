"""A blob over a link that breaks: goes on where it was, ends when that does not help; what is kept is what came."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapters.registries.kept_bytes import Feed, KeptBytes, Stopped
from adapters.registries.oci_blob import fed
from router.domain.errors import ModelUnavailable
from router.models.ports import Download, SourceUnavailable

CONTENT = bytes(range(256)) * 40
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


def read_through(rest: Path, feed: Feed) -> str:
    """As whoever unpacks it does: in a thread, to the end. Returns the sha256."""
    with closing(KeptBytes(rest, len(CONTENT), feed)) as kept:
        while kept.read(700):
            pass
        return kept.sha256


def content_of(rest: Path) -> bytes:
    return rest.read_bytes()


async def kept(rest: Path, link: Link) -> str:
    feed = Feed()
    reading = asyncio.create_task(asyncio.to_thread(read_through, rest, feed))
    try:
        await fed(feed, len(CONTENT), link.fetch, "m", NO_PAUSES)
    except ModelUnavailable:
        feed.stop()
        with pytest.raises(Stopped):
            await reading
        raise
    return await reading


@pytest.fixture
def rest(tmp_path: Path) -> Path:
    return tmp_path / "rest"


DIGEST = hashlib.sha256(CONTENT).hexdigest()


async def test_a_link_that_breaks_again_and_again_brings_everything_once(rest: Path) -> None:
    link = Link(lasts=[700])
    assert await kept(rest, link) == DIGEST
    assert content_of(rest) == CONTENT
    assert link.sent == len(CONTENT)
    assert link.asked == list(range(0, len(CONTENT), 700))


async def test_what_an_earlier_attempt_left_is_not_fetched_again(rest: Path) -> None:
    with pytest.raises(SourceUnavailable):
        await kept(rest, Link(lasts=[4000, 0]))
    link = Link(lasts=[10**9])
    assert await kept(rest, link) == DIGEST
    assert content_of(rest) == CONTENT
    assert link.asked == [4000]


async def test_a_link_that_brings_nothing_ends_after_bounded_attempts(rest: Path) -> None:
    link = Link(lasts=[0])
    with pytest.raises(SourceUnavailable, match="the link broke"):
        await kept(rest, link)
    assert link.asked == [0, 0, 0]


async def test_a_server_without_ranges_on_a_link_that_breaks_ends_after_bounded_attempts(rest: Path) -> None:
    link = Link(lasts=[3000, 4000, 3000, 5000, 3000], has_ranges=False)
    with pytest.raises(SourceUnavailable):
        await kept(rest, link)
    assert len(link.asked) == 4  # the first did bring something


async def test_a_server_without_ranges_is_heard_again_up_to_where_it_was(rest: Path) -> None:
    link = Link(lasts=[3300, 10**9], has_ranges=False)
    assert await kept(rest, link) == DIGEST
    assert content_of(rest) == CONTENT


async def test_more_than_was_announced_is_refused(rest: Path) -> None:
    with pytest.raises(ModelUnavailable, match="larger than the 10240 bytes"):
        await kept(rest, Link([10**9], b"x" + CONTENT))


async def test_less_than_was_announced_is_a_link_that_broke(rest: Path) -> None:
    with pytest.raises(SourceUnavailable, match="ended after 10239 of 10240 bytes"):
        await kept(rest, Link([10**9], CONTENT[:-1]))
