"""Processes that pull one image, to be killed: `python -m tests.registries.oci.image_puller HOST FOLDER` starts one for
every line that it reads, answers with its process id, and with another line when that has ended."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from adapters.model_cache import ModelCache, Patience
from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci import OciModels
from adapters.transport import HttpTransport
from router.domain.model_ref import ModelRef
from router.models.cache_ports import Kept
from router.models.progress import PullProgress
from router.models.settings import Host, RegistrySettings


async def pull(host: str, folder: Path) -> Kept:
    """As the gateway does it: the spool lies in the cache's folder."""
    settings = RegistrySettings(hosts={host: Host(is_plain_http=True)})
    transport = HttpTransport(settings)
    source = OciModels(transport, settings, DockerCredentials(folder / "none"), folder / "models" / "spool")
    cache = ModelCache(folder / "models", patience=Patience(first_pause_s=0.01), keep_free_bytes=0)
    try:
        resolution = await source.resolve(ModelRef.parse(f"oci://{host}/m:1"))
        progress = PullProgress(time.monotonic)
        return await cache.fetch(resolution, lambda file, at: source.read(resolution, file, at), progress)
    finally:
        await transport.close()


def main(host: str, folder: Path) -> None:
    for _ in sys.stdin:
        if (pid := os.fork()) == 0:
            asyncio.run(pull(host, folder))
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
