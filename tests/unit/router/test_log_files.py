"""Logs that are full: real files, and an Envoy whose admin answers are the test's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.log_files import keep_small, rotate_before_start
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener

DEADLINE_S = 30.0


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_log_that_is_not_full_or_not_there_stays_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    rotate_before_start(log, max_bytes=5, kept=2)
    log.write_text("1234")
    rotate_before_start(log, max_bytes=5, kept=2)
    assert contents(tmp_path) == {"ray.log": "1234"}


def test_full_logs_move_up_and_the_oldest_goes(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    for text in ("first", "second", "third"):
        log.write_text(text)
        rotate_before_start(log, max_bytes=5, kept=2)
    assert contents(tmp_path) == {"ray.log.1": "third", "ray.log.2": "second"}


def test_a_log_that_cannot_be_renamed_is_told_and_keeps_nothing_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "ray.log"
    log.write_text("12345")
    (tmp_path / "ray.log.1" / "in the way").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        rotate_before_start(log, max_bytes=5, kept=1)
    assert log.read_text() == "12345"
    assert "cannot rename the full log" in caplog.text


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110  # files set no event
            await asyncio.sleep(0.005)


class Admin:
    """Envoy's admin socket. It answers with `status` and remembers what it was asked."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.asked: list[tuple[bytes, bytes]] = []

    def __call__(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        self.asked.append((request.method, request.path))
        reply(HttpResponse(self.status, [], [b"OK\n"]))
        return None

    async def asked_times(self, count: int) -> None:
        await until(lambda: len(self.asked) >= count)

    @asynccontextmanager
    async def listening(self, socket: Path) -> AsyncIterator[None]:
        listener = Listener(self, b"", 1000)
        await listener.open_unix(str(socket))
        try:
            yield
        finally:
            await listener.close(grace_s=0)


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@asynccontextmanager
async def kept_small(log_dir: Path, socket: Path, kept: int = 2) -> AsyncIterator[None]:
    keeper = asyncio.create_task(keep_small(log_dir, socket, max_bytes=5, kept=kept, every_s=0.01))
    try:
        yield
        assert not keeper.done()
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def test_envoy_is_told_once_for_each_full_log(log_dir: Path, tmp_path: Path) -> None:
    admin, log = Admin(200), log_dir / "access.jsonl"
    async with admin.listening(tmp_path / "envoy"), kept_small(log_dir, tmp_path / "envoy"):
        log.write_text("first")
        await admin.asked_times(1)
        log.write_text("new")
        with log.open("a") as more:
            more.write("er")
        await admin.asked_times(2)
    assert admin.asked == [(b"POST", b"/reopen_logs")] * 2
    assert contents(log_dir) == {"access.jsonl.1": "newer", "access.jsonl.2": "first"}


async def test_an_envoy_that_fails_is_asked_again_and_nothing_more_is_renamed(log_dir: Path, tmp_path: Path) -> None:
    admin = Admin(503)
    (log_dir / "access.jsonl").write_text("first")
    async with admin.listening(tmp_path / "envoy"), kept_small(log_dir, tmp_path / "envoy"):
        await admin.asked_times(2)
        admin.status = 200
        await admin.asked_times(3)
    assert contents(log_dir) == {"access.jsonl.1": "first"}


async def test_an_envoy_that_is_away_is_asked_when_it_is_back(log_dir: Path, tmp_path: Path) -> None:
    admin = Admin(200)
    (log_dir / "access.jsonl").write_text("first")
    async with kept_small(log_dir, tmp_path / "envoy"):
        await until((log_dir / "access.jsonl.1").exists)
        async with admin.listening(tmp_path / "envoy"):
            await admin.asked_times(1)


async def test_a_log_that_cannot_be_renamed_is_told_once_and_tried_again(
    log_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    admin = Admin(200)
    (log_dir / "access.jsonl").write_text("first")
    obstacle = log_dir / "access.jsonl.1" / "in the way"
    obstacle.mkdir(parents=True)
    async with admin.listening(tmp_path / "envoy"), kept_small(log_dir, tmp_path / "envoy", kept=1):
        await until(lambda: bool(caplog.records))
        assert admin.asked == []
        obstacle.rmdir()
        obstacle.parent.rmdir()
        await admin.asked_times(1)
    assert contents(log_dir) == {"access.jsonl.1": "first"}
    assert len([record for record in caplog.records if "cannot rename" in record.message]) == 1
