"""Webhooks of Crossfade's own making: one that answers with a number, and those that are told what happens.

Every call is a POST of JSON. Nothing secret is sent along, so whoever listens must be reached over a network that is
trusted, or at a URL that cannot be guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from adapters.http_exchange import ExchangeFailed, HttpExchange, origin
from router.domain.errors import StoreFailed
from router.domain.policy import CustomMetric
from router.domain.rollout import Page, Rollout
from router.domain.sources import WebhookAnswer
from router.events import EventLog
from router.measuring import NotMeasured
from router.models.watch_ports import Notice
from router.rollout_ports import Entry, Outbox

RETRY_AFTER_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 60.0, 60.0)
_DELIVERY_TIMEOUT_S = 10.0
_MAX_WAITING = 100  # announcements a URL; a rollout makes some thirty

_TRY_AGAIN = frozenset({0, 408, 425, 429})  # and what is 500 or more: anything else is refused for good


class WebhookSampler:
    """Implements `Sampler`: the answer is {"value": NUMBER}."""

    def __init__(self, http: HttpExchange) -> None:
        self._http = http

    async def sample(self, rollout: Rollout, metric: CustomMetric, source: WebhookAnswer) -> float:
        body = {
            "metric": metric.name,
            "rollout": rollout.id,
            "endpoint": rollout.endpoint,
            "stable": rollout.stable,
            "candidate": rollout.candidate,
            "weight": rollout.weight_percent,
            "mirror": rollout.mirror_percent,
            "step": rollout.step_index + 1,
        }
        try:
            answer = json.loads(await self._http.post(source.url, body))
        except ExchangeFailed as error:
            raise NotMeasured(f"{origin(source.url)}: {error}") from None
        except ValueError:
            raise NotMeasured(f"{origin(source.url)}: the answer is not JSON") from None
        value = answer.get("value") if isinstance(answer, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise NotMeasured(f'{origin(source.url)}: the answer is not {{"value": NUMBER}}')
        return float(value)


class Webhooks:
    """Implements `Listeners` and `Hears`: every announcement goes to the URLs that `urls_of` names, every notice to
    those that it names itself, to each in order.

    Announcements at least once, also over restarts: `rollout` and `revision` tell a repetition. Notices as long as this
    process lives: what they tell can be asked for. What cannot be delivered in minutes, is refused, or comes too fast
    is left out, and the event log says so. `run` must be running.
    """

    def __init__(
        self,
        urls_of: Callable[[Entry], Collection[str]],
        outbox: Outbox,
        http: HttpExchange,
        events: EventLog,
        retry_after_s: Sequence[float] = RETRY_AFTER_S,
    ) -> None:
        """Takes up what an earlier process did not deliver. Raises `StoreFailed`."""
        self._urls_of = urls_of
        self._outbox = outbox
        self._http = http
        self._events = events
        self._retry_after_s = retry_after_s
        self._waiting: dict[str, deque[Entry | Notice]] = {}
        self._news = asyncio.Event()
        for url, entry in outbox.untold():
            self._queue(url, entry)

    def tell(self, entry: Entry) -> None:
        for url in self._urls_of(entry):
            self._queue(url, entry)

    def hear(self, notice: Notice) -> None:
        for url in notice.urls:
            self._queue(url, notice)

    def _queue(self, url: str, entry: Entry | Notice) -> None:
        waiting = self._waiting.setdefault(url, deque())
        if len(waiting) < _MAX_WAITING:
            waiting.append(entry)
            self._news.set()
        else:
            self._left_out(url, entry, f"{_MAX_WAITING} others wait to be delivered")
            self._settle(url, entry)

    async def run(self) -> None:
        """Deliver, without end."""
        busy: set[str] = set()

        async def serve(url: str) -> None:
            try:
                while waiting := self._waiting.get(url):
                    await self._deliver(url, waiting[0])
                    await asyncio.to_thread(self._settle, url, waiting.popleft())
                del self._waiting[url]
            finally:
                busy.discard(url)

        async with asyncio.TaskGroup() as group:
            while True:
                await self._news.wait()
                self._news.clear()
                for url in self._waiting.keys() - busy:
                    busy.add(url)
                    group.create_task(serve(url))

    async def _deliver(self, url: str, entry: Entry | Notice) -> None:
        body, trouble = body_of(entry), ""
        for pause_s in (*self._retry_after_s, None):
            try:
                async with asyncio.timeout(_DELIVERY_TIMEOUT_S):
                    await self._http.post(url, body)
                    return
            except TimeoutError:
                trouble = f"no answer within {_DELIVERY_TIMEOUT_S:g} s"
            except ExchangeFailed as error:
                trouble = str(error)
                if error.status not in _TRY_AGAIN and error.status < 500:
                    break
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        self._left_out(url, entry, trouble)

    def _settle(self, url: str, entry: Entry | Notice) -> None:
        """What cannot be noted is told again after a restart."""
        if isinstance(entry, Entry):
            with contextlib.suppress(StoreFailed):
                self._outbox.settle(url, entry)

    def _left_out(self, url: str, entry: Entry | Notice, why: str) -> None:
        match entry:
            case Entry(rollout_id, _, what):
                missed = f"revision {what.revision} of rollout {rollout_id}"
            case Notice(news=news):
                missed = f"revision {news.revision} of its watch ({news.kind})"
        message = f"{entry.endpoint}: {origin(url)} was not told of {missed}: {why}"
        self._events.publish("webhook_failed", message, endpoint=entry.endpoint)


def body_of(entry: Entry | Notice) -> dict[str, Any]:
    """`text` is what chat programs show."""
    if isinstance(entry, Notice):
        news = entry.news
        return {
            "text": f"{entry.endpoint}: {news.message}",
            "kind": news.kind,
            "endpoint": entry.endpoint,
            "revision": news.revision,
            "at": news.at.isoformat(),
            "message": news.message,
        }
    what = entry.what
    return {
        "text": f"{entry.endpoint}: {what.message}",
        "rollout": entry.rollout_id,
        "endpoint": entry.endpoint,
        "revision": what.revision,
        "at": what.at.isoformat(),
        "by": what.by,
        "old_phase": str(what.old_phase),
        "phase": str(what.phase),
        "message": what.message,
        "is_urgent": isinstance(what, Page),
    }
