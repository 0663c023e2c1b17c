"""A replica as a process of its own, for tests that kill one: `python -m tests.envoy.replica_process SOCKET NAME`.

Answers after a few milliseconds, so that there is work under way at any moment.
"""

import asyncio
import sys

from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener
from tests.envoy.replica import TOKEN, usual_answer

WORK_S = 0.005


async def main(path: str, name: str) -> None:
    loop = asyncio.get_running_loop()

    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        if request.path.startswith(b"/v2/health/"):
            reply(HttpResponse(200, [], [b"{}"]))
            return None
        return loop.call_later(WORK_S, reply, usual_answer(name, request)).cancel

    await Listener(handle, token=TOKEN.encode(), max_body_bytes=2**20).open_unix(path)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
