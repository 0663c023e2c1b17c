"""What this machine lets a process have: open files, which connections are too, and memory."""

from __future__ import annotations

import os
import resource

_MOST_OPEN_FILES = 131_072  # more serve nobody, and some programs walk through all that they may have


def raise_open_files() -> int:
    """Let this process and its children open as many files as the hard limit allows. Returns how many.

    Shells often start programs with 1,024, which one flood of connections uses up, and then no replica can be reached.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def open_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
