"""The access log of a real Envoy, renamed while requests are answered: no line is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from router.log_files import keep_small
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 20  # about 10 kB of log


async def test_envoy_writes_on_into_a_new_access_log_and_loses_no_line(plane: DataPlane) -> None:
    await plane.endpoint("kept", upstream("blue", await plane.replica("blue")))
    access_log = Path(plane.gateway.access_log)
    keeper = asyncio.create_task(
        keep_small(plane.folder, plane.folder / "admin", max_bytes=4000, kept=100, every_s=0.02)
    )
    sent: list[str] = []
    try:
        for renamed, part in enumerate(("early", "late"), 1):
            for number in range(REQUESTS):
                sent.append(f"{part}-{number}")
                assert (await plane.infer("kept", {"x-request-id": sent[-1]})).status_code == 200
            await eventually(lambda: logged(access_log), sorted(sent))
            oldest = access_log.with_name(f"access.jsonl.{renamed}")
            await eventually(oldest.exists)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


def logged(access_log: Path) -> list[str]:
    """The ids of the requests in all of the log's files."""
    texts = [path.read_text() for path in access_log.parent.glob("access.jsonl*")]
    return sorted(json.loads(line)["request_id"] for text in texts for line in text.splitlines())
