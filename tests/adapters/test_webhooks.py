"""Whoever is told of a rollout, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue

from adapters.http_exchange import HttpExchange
from adapters.webhooks import Webhooks
from router.domain.errors import StoreFailed
from router.domain.rollout import Announce, Page, Phase
from router.domain.watching import News
from router.events import EventLog
from router.models.watch_ports import Notice
from router.rollout_ports import Entry
from tests.adapters.http_server import HttpServer, http_server

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def entry(revision: int = 2, kind: type[Announce] = Announce) -> Entry:
    what = kind(revision, NOON, "ann", Phase.PROGRESSING, Phase.PAUSED, f"paused by ann, revision {revision}")
    return Entry("r1", "fraud", what)


@dataclass
class Outbox:
    """Implements `Outbox`. `left`: what is untold; nothing can be noted while the `disk_is_full`."""

    left: list[tuple[str, Entry]] = field(default_factory=list)
    settled: SimpleQueue[tuple[str, int]] = field(default_factory=SimpleQueue)
    disk_is_full: bool = False

    def untold(self) -> tuple[tuple[str, Entry], ...]:
        return tuple(self.left)

    def settle(self, url: str, entry: Entry) -> None:
        if self.disk_is_full:
            raise StoreFailed("the disk is full")
        self.settled.put((url, entry.what.revision))


class Told:
    """Webhooks that run, and the events that they write."""

    def __init__(self, urls: Sequence[str], outbox: Outbox, http: HttpExchange, retries: int) -> None:
        self.events = EventLog(lambda: NOON)
        self.outbox = outbox
        self.webhooks = Webhooks(lambda entry: urls, outbox, http, self.events, (0.0,) * retries)

    async def settled(self) -> tuple[str, int]:
        """The next one that is not tried again: URL and revision."""
        return await asyncio.to_thread(self.outbox.settled.get, timeout=30)

    async def complaint(self) -> str:
        async with asyncio.timeout(30):
            async for event in self.events.follow(0):
                assert event.kind == "webhook_failed"
                return event.message
        raise AssertionError("no event")


@asynccontextmanager
async def telling(*urls: str, retries: int = 2, outbox: Outbox | None = None) -> AsyncIterator[Told]:
    http = HttpExchange()
    told = Told(urls, outbox or Outbox(), http, retries)
    running = asyncio.create_task(told.webhooks.run())
    try:
        yield told
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await http.close()


async def revisions(server: HttpServer, count: int) -> list[int]:
    async with asyncio.timeout(30):
        return [(await server.asked.get()).body["revision"] for _ in range(count)]


async def test_every_announcement_is_posted_in_order_to_every_url() -> None:
    async with http_server((200, b"ok")) as one, http_server((204, b"")) as two, telling(one.url, two.url) as told:
        for number in range(2, 12):
            told.webhooks.tell(entry(number))
        assert await revisions(one, 10) == list(range(2, 12))
        assert await revisions(two, 10) == list(range(2, 12))
        assert told.events.last_id == 0


async def test_the_body_says_all_that_the_audit_trail_says() -> None:
    async with http_server((200, b"")) as server, telling(f"{server.url}/hook") as told:
        told.webhooks.tell(entry(kind=Page))
        async with asyncio.timeout(30):
            asked = await server.asked.get()
        assert (asked.method, asked.path) == ("POST", "/hook")
        assert asked.body == {
            "text": "fraud: paused by ann, revision 2",
            "rollout": "r1",
            "endpoint": "fraud",
            "revision": 2,
            "at": "2026-01-02T12:00:00+00:00",
            "by": "ann",
            "old_phase": "progressing",
            "phase": "paused",
            "message": "paused by ann, revision 2",
            "is_urgent": True,
        }


async def test_what_fails_for_a_while_is_delivered_in_the_end_and_in_order() -> None:
    async with http_server((500, b""), (429, b""), (200, b"")) as server, telling(server.url) as told:
        told.webhooks.tell(entry(2))
        told.webhooks.tell(entry(3))
        assert await revisions(server, 4) == [2, 2, 2, 3]
        assert told.events.last_id == 0


async def test_what_cannot_be_delivered_is_said_in_the_event_log_and_does_not_stop_the_rest() -> None:
    unwell = ((503, b""), (503, b""), (503, b""), (200, b""))
    async with http_server(*unwell) as server, telling(f"{server.url}/secret-path") as told:
        told.webhooks.tell(entry(2))
        told.webhooks.tell(entry(3))
        complaint = await told.complaint()
        assert complaint == f"fraud: {server.url} was not told of revision 2 of rollout r1: HTTP 503"
        assert await revisions(server, 4) == [2, 2, 2, 3]


async def test_a_refusal_is_final() -> None:
    async with http_server((404, b""), (200, b"")) as server, telling(server.url, retries=1000) as told:
        told.webhooks.tell(entry(2))
        assert (await told.complaint()).endswith("HTTP 404")
        told.webhooks.tell(entry(3))
        assert await revisions(server, 2) == [2, 3]


async def test_a_url_that_hangs_holds_up_neither_the_caller_nor_the_others_and_its_queue_is_bounded() -> None:
    async with http_server(None) as hung, http_server((200, b"")) as well, telling(hung.url, well.url) as told:
        for number in range(2, 102):
            told.webhooks.tell(entry(number))
        assert await revisions(well, 100) == list(range(2, 102))
        assert await revisions(hung, 1) == [2]
        assert told.events.last_id == 0
        told.webhooks.tell(entry(102))
        assert (await told.complaint()).endswith("revision 102 of rollout r1: 100 others wait to be delivered")
        settled = [await told.settled() for _ in range(101)]
        assert (hung.url, 102) in settled  # or it would wait for the next start


async def test_a_url_is_served_again_after_it_had_nothing_to_do() -> None:
    async with http_server((200, b"")) as server, telling(server.url) as told:
        for number in (2, 3, 4):
            told.webhooks.tell(entry(number))
            assert await revisions(server, 1) == [number]


async def test_what_was_delivered_or_given_up_is_settled() -> None:
    async with http_server((200, b""), (404, b"")) as server, telling(server.url) as told:
        told.webhooks.tell(entry(2))
        told.webhooks.tell(entry(3))
        assert [await told.settled() for _ in range(2)] == [(server.url, 2), (server.url, 3)]


async def test_what_an_earlier_process_did_not_deliver_comes_first() -> None:
    async with http_server((200, b"")) as server:
        outbox = Outbox([(server.url, entry(2)), (server.url, entry(3))])
        async with telling(server.url, outbox=outbox) as told:
            told.webhooks.tell(entry(4))
            assert await revisions(server, 3) == [2, 3, 4]
            assert [await told.settled() for _ in range(3)] == [(server.url, number) for number in (2, 3, 4)]


async def test_a_disk_that_is_full_holds_up_nobody() -> None:
    async with http_server((200, b"")) as server, telling(server.url, outbox=Outbox(disk_is_full=True)) as told:
        told.webhooks.tell(entry(2))
        told.webhooks.tell(entry(3))
        assert await revisions(server, 2) == [2, 3]


async def test_news_of_a_watched_reference_are_posted_to_the_urls_that_they_name() -> None:
    news = News("model_moved", 3, NOON, "models:/fraud@champion names models:/fraud/2 now")
    async with http_server((200, b"ok")) as server, telling() as told:
        told.webhooks.hear(Notice("fraud", (server.url,), news))
        async with asyncio.timeout(30):
            body = (await server.asked.get()).body
    assert body == {
        "text": "fraud: models:/fraud@champion names models:/fraud/2 now",
        "kind": "model_moved",
        "endpoint": "fraud",
        "revision": 3,
        "at": NOON.isoformat(),
        "message": "models:/fraud@champion names models:/fraud/2 now",
    }
