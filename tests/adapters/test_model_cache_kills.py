"""Two processes pull into one cache and are killed at random moments. Whoever finds a model finds a whole one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.model_cache import ModelCache, Patience
from router.models.progress import PullProgress
from tests.adapters.model_puller import MODELS, content_of, read_slowly, resolution

ROOT = Path(__file__).parents[2]
KILLS = 100


class Pullers:
    """Starts processes that pull: forked from one that has imported everything, so a start takes a millisecond."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "tests.adapters.model_puller", str(root), "0.0005"]
        self._nursery = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def start(self) -> int:
        """The process id."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(b"another\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def close(self) -> None:
        assert self._nursery.stdout is not None
        self._nursery.communicate(timeout=30)
        self._nursery.stdout.close()


@pytest.mark.timeout(170)
async def test_killed_at_random_moments_the_cache_never_shows_half_a_model(tmp_path: Path) -> None:
    root, chance = tmp_path / "models", random.Random(5)
    cache = ModelCache(root, patience=Patience(tries=3, first_pause_s=0.01), keep_free_bytes=0)
    seen = 0
    pullers = Pullers(root)
    alive = [pullers.start(), pullers.start()]
    try:
        for kill in range(KILLS):
            await asyncio.sleep(chance.uniform(0.0, 0.08))
            os.kill(alive[kill % 2], signal.SIGKILL)
            # The other one goes on, and removes models now and then: what is here may be gone a moment later.
            for kept in await cache.entries():
                seen += await cache.verify(kept.tree.digest) is not None
            alive[kill % 2] = pullers.start()
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        pullers.close()
    assert seen > 0
    for model in range(MODELS):
        kept = await cache.fetch(resolution(model), read_slowly, PullProgress(time.monotonic))
        digests = {file.path: file.sha256 for file in kept.tree.files}
        assert digests == {
            file.path: hashlib.sha256(content_of(file.locator)).hexdigest() for file in resolution(model).files
        }
        assert await cache.verify(kept.tree.digest) is not None
    await cache.collect((), 0.0)
    left = [path for folder in ("trees", "quarantine", "locks") for path in (root / folder).iterdir()]
    assert [path for path in left if not path.name.startswith(".new-")] == []
