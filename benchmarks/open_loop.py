"""An open-loop HTTP/1.1 generator: sends at times drawn beforehand, whatever the answers do.

    python -m benchmarks.open_loop --port PORT --request FILE --schedule FILE.npy --output FILE.npz

One thread, no asyncio: epoll waits in whole milliseconds and asyncio's timers with it, whereas select() on the epoll
descriptor waits in microseconds. At 6,000 requests of 8 KB a second, three times what the server could do, on two cores
with other work on them, its requests were sent 85 µs late at the 99th percentile. Whether it kept its schedule is part
of its result (`goodput.Answers.kept_schedule`), and a run in which it did not is thrown away.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import os
import resource
import select
import socket
import time
from pathlib import Path

import httptools
import numpy as np

PATIENCE_S = 3.0  # for the last answers, after the last request
_PREPARED_CONNECTIONS = 64
_MOST_CONNECTIONS = 16384
_START_AFTER_S = 0.05
_CHUNK = 1 << 17


class _Connection:
    """One keep-alive connection with at most one request on it. `at`: which one, as an index into the schedule."""

    __slots__ = ("at", "is_answered", "is_usable", "parser", "socket", "unsent")

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))
        self.at = -1
        self.is_answered = False
        self.is_usable = True
        self.unsent = memoryview(b"")
        self.parser = httptools.HttpResponseParser(self)

    def on_message_complete(self) -> None:  # httptools' name
        self.is_answered = True
        self.is_usable = self.parser.should_keep_alive()


class OpenLoop:
    """Sends `request`, the bytes of a whole HTTP/1.1 request, at each time of `schedule_s` to 127.0.0.1:`port`."""

    def __init__(self, port: int, request: bytes, schedule_s: np.ndarray) -> None:
        self._port = port
        self._request = request
        self._schedule = schedule_s.tolist()
        count = len(self._schedule)
        self.late_s = np.zeros(count)
        self.latency_s = np.full(count, np.inf)
        self.status = np.zeros(count, np.int64)
        self._left = count
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._buffer = memoryview(bytearray(_CHUNK))

    def run(self) -> None:
        for _ in range(_PREPARED_CONNECTIONS):
            self._idle.append(self._connect())
        schedule, count, sent = self._schedule, len(self._schedule), 0
        self._start = time.perf_counter() + _START_AFTER_S
        end_s = (schedule[-1] if count else 0.0) + PATIENCE_S
        while self._left and (now := time.perf_counter() - self._start) < end_s:
            while sent < count and schedule[sent] <= now:
                self._send(sent, now - schedule[sent])
                sent += 1
                now = time.perf_counter() - self._start
            next_s = schedule[sent] if sent < count else end_s
            readable, _, _ = select.select([self._epoll], [], [], max(0.0, next_s - now))
            if readable:
                for descriptor, events in self._epoll.poll(0):
                    self._on_events(self._by_descriptor[descriptor], events)
        for connection in list(self._by_descriptor.values()):
            self._drop(connection)
        self._epoll.close()

    def _connect(self) -> _Connection:
        connection = _Connection(self._port)
        self._by_descriptor[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _send(self, at: int, late_s: float) -> None:
        connection = self._idle.pop() if self._idle else self._connect()
        connection.at = at
        self.late_s[at] = late_s
        connection.unsent = memoryview(self._request)
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            pass  # not connected yet, or its buffer is full
        except OSError:
            self._lose(connection)
            return
        interest = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
        self._epoll.modify(connection.socket.fileno(), interest)

    def _on_events(self, connection: _Connection, events: int) -> None:
        if events & select.EPOLLOUT and connection.unsent:
            self._write(connection)
        if events & ~select.EPOLLOUT and connection.socket.fileno() >= 0:
            self._read(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv_into(self._buffer)
            if received:
                connection.parser.feed_data(self._buffer[:received])
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            received = 0
        if not received:
            self._lose(connection)
        elif connection.is_answered:
            self._answered(connection)

    def _answered(self, connection: _Connection) -> None:
        at = connection.at
        self.latency_s[at] = time.perf_counter() - self._start - self._schedule[at]
        self.status[at] = connection.parser.get_status_code()
        self._left -= 1
        if not connection.is_usable or connection.unsent:
            self._drop(connection)
            return
        connection.at = -1
        connection.is_answered = False
        connection.parser = httptools.HttpResponseParser(connection)
        self._idle.append(connection)

    def _lose(self, connection: _Connection) -> None:
        """Its request, if it has one, stays at status 0."""
        if connection.at >= 0:
            self._left -= 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._epoll.unregister(connection.socket.fileno())
        del self._by_descriptor[connection.socket.fileno()]
        connection.socket.close()


def _make_room_for_connections() -> None:
    """Raises the limit, and has the kernel grow this process's table of descriptors now.

    Otherwise it grows at 256, 512, 1024 … connections, and a process with threads (NumPy's) waits 5 to 15 ms each time.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.close(fcntl.fcntl(0, fcntl.F_DUPFD, min(most, _MOST_CONNECTIONS) - 1))


def _take_precedence() -> None:
    """On shared cores, what measures must not wait for what is measured. Who may not have it does without."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, -10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--request", type=Path, required=True, help="the bytes of one HTTP/1.1 request")
    parser.add_argument("--schedule", type=Path, required=True, help="send times in seconds, .npy")
    parser.add_argument("--output", type=Path, required=True, help=".npz")
    arguments = parser.parse_args()
    _make_room_for_connections()
    _take_precedence()
    loop = OpenLoop(arguments.port, arguments.request.read_bytes(), np.load(arguments.schedule))
    gc.disable()
    loop.run()
    np.savez(arguments.output, late_s=loop.late_s, latency_s=loop.latency_s, status=loop.status)


if __name__ == "__main__":
    main()
