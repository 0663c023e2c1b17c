"""Progress for the person who waits, on stderr: stdout carries the result alone."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
