"""The admin API against its own OpenAPI description: schemathesis sends what it allows, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import uvicorn

from tests.api.admin import SPECS, Admin
from tests.fakes import TOKEN
from tests.servers.inspectors import inspect

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
SEED, EXAMPLES = 1, 15


async def test_every_reply_is_one_that_the_description_has_and_none_is_our_mistake(
    admin: Admin, tmp_path: Path
) -> None:
    await admin.apply(*SPECS)
    server = uvicorn.Server(
        uvicorn.Config(admin.app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    )
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        code, said = await inspect(
            *("st", "run", f"http://127.0.0.1:{port}/api/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
            *("--phases", "coverage,fuzzing", "--seed", str(SEED), "--max-examples", str(EXAMPLES), "--no-color"),
            *("--checks", ",".join(CHECKS), "--generation-database", "none", "--request-timeout", "90"),
            *("--exclude-path", "/api/v1/events"),  # which can be followed, without end
            folder=tmp_path,
        )
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    assert code == 0, said[-10_000:]
