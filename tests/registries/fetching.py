"""Run inside a network of its own: fetches URLs as the gateway would, and tells what came of each.

python -m tests.registries.fetching < [["text of registries.yaml", "https://…"], …]
"""

from __future__ import annotations

import asyncio
import json
import sys

from adapters.transport import HttpTransport
from router.domain.errors import CrossfadeError
from router.models.settings_reading import read_settings


async def told(settings: str, url: str) -> str:
    transport = HttpTransport(read_settings(settings.encode(), "registries.yaml", "/"), ())
    try:
        async with transport.stream(url) as download:
            return b"".join([chunk async for chunk in download.chunks]).decode()
    except CrossfadeError as error:
        return f"{type(error).__name__} {error}"
    finally:
        await transport.close()


async def all_told(tasks: list[tuple[str, str]]) -> list[str]:
    return [await told(settings, url) for settings, url in tasks]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(all_told(json.load(sys.stdin)))))
