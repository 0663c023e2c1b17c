"""The open-loop generator against a real server on loopback. What is asserted is counted, never timed."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from benchmarks.open_loop import OpenLoop

BODY = b"x" * 300_000  # more than a socket takes at once
REQUEST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class Answering(BaseHTTPRequestHandler):
    """Every third request is refused, every fifth connection is closed instead of an answer."""

    protocol_version = "HTTP/1.1"
    served = 0
    counting = threading.Lock()

    def do_POST(self) -> None:
        received = self.rfile.read(int(self.headers["Content-Length"]))
        with self.counting:
            type(self).served += 1
            number = self.served
        if number % 5 == 0:
            self.close_connection = True
            return
        self.send_response(429 if number % 3 == 0 else 200 if received == BODY else 400)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        """Not to stderr."""


class ManyAtOnce(ThreadingHTTPServer):
    request_queue_size = 256  # the generator opens 64 connections before it starts


class Silent(socketserver.BaseRequestHandler):
    """Hangs up at once."""

    def handle(self) -> None:
        return


@contextmanager
def running(server: socketserver.TCPServer) -> Iterator[int]:
    """Its port."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_request_is_sent_once_and_each_kind_of_answer_is_told_apart() -> None:
    class Handler(Answering):
        served = 0

    with running(ManyAtOnce(("127.0.0.1", 0), Handler)) as port:
        loop = OpenLoop(port, REQUEST, np.linspace(0.0, 0.3, 30))
        loop.run()
    assert Handler.served == 30
    statuses = {
        int(status): int(count) for status, count in zip(*np.unique(loop.status, return_counts=True), strict=True)
    }
    assert statuses == {200: 16, 429: 8, 0: 6}
    assert np.all(np.isfinite(loop.latency_s) == (loop.status != 0))
    assert np.all(loop.late_s >= 0)


def test_a_server_that_hangs_up_loses_every_request_and_ends_the_run() -> None:
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent)) as port:
        loop = OpenLoop(port, REQUEST, np.linspace(0.0, 0.1, 20))
        loop.run()
    assert np.all(loop.status == 0)
    assert np.all(np.isinf(loop.latency_s))
