"""Keys and certificates replaced again and again while callers call, on a whole gateway: what it costs them.

Keys are rotated as an operator does it: callers use the one while the other is replaced. A key's end is timed from the
moment that the operator asks for it, by somebody who sends nothing else than requests with it.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.crossfade import ENDPOINT
from benchmarks.report import Row
from benchmarks.secured import CROSSFADE, Secured

MAX_STOP_S = 1.0
KEPT, NEW = 3, 1  # callers that keep their connection, and that make one for every request
_PATIENCE_S = 30.0


@dataclass
class Callers:
    """`key` is what they show; it may change at any time."""

    secured: Secured
    body: bytes
    key: str
    answered: list[int] = field(default_factory=lambda: [0] * (KEPT + NEW))
    failures: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def call(self, number: int) -> None:
        keeps = number < KEPT
        with httpx.Client(verify=self.secured.trust, timeout=_PATIENCE_S, trust_env=False) as client:
            while not self.is_over.is_set():
                headers = {"x-api-key": self.key, **({} if keeps else {"connection": "close"})}
                try:
                    reply = client.post(self.secured.url, content=self.body, headers=headers)
                    if reply.status_code != 200:
                        self.failures.append(f"HTTP {reply.status_code}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self.answered[number] += 1

    def let_everybody_call_again(self) -> None:
        """Until each has begun a request that saw the present key, and has its answer."""
        enough = [count + 2 for count in self.answered]
        _until(lambda: all(now >= then for now, then in zip(self.answered, enough, strict=True)))


@contextmanager
def calling(secured: Secured, body: bytes) -> Iterator[Callers]:
    callers = Callers(secured, body, secured.key)
    threads = [threading.Thread(target=callers.call, args=(number,)) for number in range(KEPT + NEW)]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.is_over.set()
        for thread in threads:
            thread.join()


def key_rotations(secured: Secured, body: bytes, rotations: int) -> Row:
    stops_s = []
    with secured.admin() as admin, calling(secured, body) as callers:
        keys = {"primary": secured.key, "secondary": str(admin.create_key(ENDPOINT)["key"])}
        for turn in range(rotations):
            used, replaced = ("primary", "secondary") if turn % 2 else ("secondary", "primary")
            callers.key = keys[used]
            callers.let_everybody_call_again()
            with timed_end(secured, body, keys[replaced]) as stop_s:
                keys[replaced] = str(admin.regenerate_key(ENDPOINT, replaced)["key"])
            stops_s.append(stop_s())
        answered = sum(callers.answered)
    return _row(
        f"{rotations} rotations of a key under load, then each old key's end",
        f"0 failed, an old key ends within {MAX_STOP_S:g} s",
        f"{len(callers.failures)} of {answered:,} failed; ended after {max(stops_s) * 1000:.0f} ms at most",
        is_met=not callers.failures and max(stops_s) <= MAX_STOP_S,
        details={"stops_s": stops_s, "failures": callers.failures[:10], "answered": answered},
    )


def certificate_rotations(secured: Secured, body: bytes, rotations: int) -> Row:
    in_force_s = []
    with calling(secured, body) as callers:
        for _ in range(rotations):
            before = shown(secured)
            callers.let_everybody_call_again()
            subprocess.run(
                [CROSSFADE, "tls", "init", "--renew", "--data-dir", str(secured.data_dir)],
                check=True,
                capture_output=True,
            )
            began_s = time.monotonic()
            _until(lambda before=before: shown(secured) != before)
            in_force_s.append(time.monotonic() - began_s)
        answered = sum(callers.answered)
    return _row(
        f"{rotations} new certificates under load, connections kept and new ones",
        "0 failed",
        f"{len(callers.failures)} of {answered:,} failed; in force after {max(in_force_s) * 1000:.0f} ms at most",
        is_met=not callers.failures,
        details={"in_force_s": in_force_s, "failures": callers.failures[:10], "answered": answered},
    )


@contextmanager
def timed_end(secured: Secured, body: bytes, key: str) -> Iterator[Callable[[], float]]:
    """Sends requests with `key` until one is refused. What it yields tells, afterwards, how long the key still opened
    something."""
    ends: list[float] = []

    def ask() -> None:
        give_up_s = began_s + _PATIENCE_S
        with httpx.Client(verify=secured.trust, timeout=_PATIENCE_S, trust_env=False) as client:
            while time.monotonic() < give_up_s:
                reply = client.post(secured.url, content=body, headers={"x-api-key": key})
                ends.append(time.monotonic() - began_s)
                if reply.status_code == 401:
                    return

    began_s = time.monotonic()
    asking = threading.Thread(target=ask)
    asking.start()
    yield lambda: ends[-1]
    asking.join()


def shown(secured: Secured) -> str:
    """The certificate that a new connection gets."""
    host, _, port = secured.host.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def _until(is_so: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"not so after {_PATIENCE_S:g} s")
        time.sleep(0.01)


def _row(title: str, bar: str, crossfade: str, *, is_met: bool, details: dict[str, object]) -> Row:
    return Row(title=title, bar=bar, crossfade=crossfade, is_met=is_met, details=details)
