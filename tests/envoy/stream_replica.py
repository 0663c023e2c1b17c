"""A replica without Ray and ONNX Runtime, as a process: `python -m tests.envoy.stream_replica SOCKET MODEL`.

Its model doubles; SIGTERM drains it.
"""

import asyncio
import signal
import sys

from serving.listener import Listener
from serving.model import Model, ModelSettings
from serving.protocol import ProtocolSettings, model_handler, stream_handlers
from serving.server_view import IndexEntry, ServerView
from tests.envoy.replica import MAX_BODY_BYTES, TOKEN
from tests.unit.serving.backends import DoublingBackend


async def main(path: str, name: str) -> None:
    model = Model(ModelSettings(name, "1"))
    await model.load(DoublingBackend)
    settings = ProtocolSettings(max_request_bytes=MAX_BODY_BYTES, request_timeout_s=5.0)

    def view() -> ServerView:
        return ServerView("1", model.is_ready, (IndexEntry(name, "1", "READY"),))

    listener = Listener(
        model_handler(model, view, settings), TOKEN.encode(), MAX_BODY_BYTES, stream_handlers(model, settings)
    )
    await listener.open_unix(path)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    await model.drain()
    await listener.close(grace_s=5.0)
    await model.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
