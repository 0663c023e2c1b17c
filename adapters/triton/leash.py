"""Becomes the program in its arguments, which the kernel will kill when the process that started it ends:

    python -I -S leash.py PARENT PROGRAM ARGUMENT...

A replica that is killed cannot end its Triton any more. Set in the child, before the program runs: what Python runs
between fork and exec in a process with threads can lock up. The program leads a group of processes, so that what it
starts can be ended with it; not a session, which Linux would schedule apart from whom it talks to. Imports next to
nothing.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
