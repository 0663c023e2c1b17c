"""A cheap web server for pulls: a process of its own that sends files from the page cache (sendfile), with Range.

It says no more than a registry's client needs to hear, and breaks off where it is told to.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_REQUEST = re.compile(rb"(GET|HEAD) (\S+) HTTP/1\.1\r\n")
_RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-\r\n", re.IGNORECASE)
_MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of an open file, from its beginning."""

    descriptor: int
    length: int


@dataclass(frozen=True, slots=True)
class Page:
    """What a path gives: pieces one after the other."""

    pieces: tuple[Piece, ...]
    content_type: str = "application/octet-stream"

    @property
    def size(self) -> int:
        return sum(piece.length for piece in self.pieces)


@contextmanager
def serving(pages: Mapping[str, Page], breaks_after: int = 0) -> Iterator[str]:
    """Its host and port. `breaks_after`: bytes of a body after which the connection is closed, 0 for never."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(listener, pages, breaks_after), daemon=True
        )
        process.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.kill()
            process.join()


def _serve(listener: socket.socket, pages: Mapping[str, Page], breaks_after: int) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer_all, args=(connection, pages, breaks_after), daemon=True).start()


def _answer_all(connection: socket.socket, pages: Mapping[str, Page], breaks_after: int) -> None:
    with connection:
        try:
            while head := _head(connection):
                if not _answer(connection, head, pages, breaks_after):
                    return
        except ConnectionError:
            return


def _head(connection: socket.socket) -> bytes:
    """Of one request; empty when the client has gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = connection.recv(_MAX_HEAD_BYTES)
        if not more or len(head) > _MAX_HEAD_BYTES:
            return b""
        head += more
    return head


def _answer(connection: socket.socket, head: bytes, pages: Mapping[str, Page], breaks_after: int) -> bool:
    """Whether the connection is good for another one."""
    request, wanted = _REQUEST.match(head), _RANGE.search(head)
    page = pages.get(request[2].decode()) if request else None
    if request is None or page is None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        return True
    offset = int(wanted[1]) if wanted else 0
    left = page.size - offset
    lines = [f"content-type: {page.content_type}", f"content-length: {left}"]
    if wanted:
        lines.append(f"content-range: bytes {offset}-{page.size - 1}/{page.size}")
    status = "206 Partial Content" if wanted else "200 OK"
    connection.sendall("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())
    if request[1] == b"HEAD":
        return True
    most = min(left, breaks_after) if breaks_after else left
    _send(connection, page, offset, most)
    return most == left


def _send(connection: socket.socket, page: Page, offset: int, left: int) -> None:
    for piece in page.pieces:
        if offset >= piece.length:
            offset -= piece.length
            continue
        while left and offset < piece.length:
            sent = os.sendfile(connection.fileno(), piece.descriptor, offset, min(left, piece.length - offset))
            offset += sent
            left -= sent
        offset = 0
