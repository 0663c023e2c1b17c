"""The command line: nouns, then verbs. It talks to the admin API, and for `invoke` to the scoring port.

One file per noun. Each registers its commands on the application it is given; heavy modules are imported inside the
commands, so that `crossfade --help` stays fast.
"""

from router.cli.application import main

__all__ = ["main"]
