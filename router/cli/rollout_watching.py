"""Following a rollout until it is decided: live in place on a terminal, else a line for every change.

What is followed goes on without whoever looks: an interrupt, a lost connection or a control plane that starts again
ends the looking at most.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from router.cli.output import say
from router.cli.rollout_text import entry_line, outcome_sentence, overview, state_sentence, verdict_sentence, what_to_do
from router.cli.session import ExitCode, TimedOut
from router.client_errors import Unreachable

if TYPE_CHECKING:
    from router.client import AdminClient

Json = Mapping[str, Any]

_SLICE_S = 1.0  # on a terminal the clock goes on even if nothing else does
_PATIENCE_S = 30.0  # a control plane that was killed is back in seconds
_RETRY_S = 0.2
_TRAIL_ENTRIES = 100

_EXIT_CODES: Mapping[str, int] = {
    "promoted": ExitCode.DONE,
    "rolled_back": ExitCode.ROLLED_BACK,
    "aborted": ExitCode.ROLLED_BACK,
}


class Display(Protocol):
    def show(self, rollout: Json) -> None:
        """Called with every change, and now and then without one."""


def exit_code(rollout: Json) -> int:
    """Of a rollout that is decided."""
    return _EXIT_CODES[str(rollout["outcome"])]


def follow(client: AdminClient, rollout: Json, display: Display, timeout_s: float | None) -> Json:
    """Show it until it is decided, and return it as it is then.

    Raises `TimedOut` when the time is over, `Unreachable` when nobody answers for long.
    """
    endpoint, deadline_s = rollout["endpoint"], None if timeout_s is None else time.monotonic() + timeout_s
    display.show(rollout)
    while not rollout["outcome"]:
        left_s = _SLICE_S if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        latest = _changed(client, endpoint, rollout["version"], min(_SLICE_S, left_s))
        if latest["id"] != rollout["id"]:  # it was taken back, or another one followed
            latest = next(item for item in client.rollouts(endpoint) if item["id"] == rollout["id"])
        is_new, rollout = latest["version"] != rollout["version"], latest
        display.show(rollout)
        if not is_new and deadline_s is not None and time.monotonic() >= deadline_s and not rollout["outcome"]:
            state = state_sentence(rollout, datetime.now(UTC))
            raise TimedOut(
                f"endpoint {endpoint}: not decided after {timeout_s:g} s: {state}. "
                f"It goes on by itself: see `crossfade rollout status {endpoint}`"
            )
    return rollout


def _changed(client: AdminClient, endpoint: str, seen: str, timeout_s: float) -> Json:
    give_up_s, has_told = time.monotonic() + _PATIENCE_S, False
    while True:
        try:
            return client.rollout_changed(endpoint, seen, timeout_s)
        except Unreachable:
            if time.monotonic() >= give_up_s:
                raise
            if not has_told:
                say("the control plane does not answer; the rollout waits for it, and so do we")
                has_told = True
            time.sleep(_RETRY_S)


class Lines:
    """A line for everything that the audit trail says, and for every turn of the evidence."""

    def __init__(self, client: AdminClient, out: TextIO) -> None:
        self._client = client
        self._out = out
        self._revision = 0
        self._evidence = ""

    def show(self, rollout: Json) -> None:
        if rollout["revision"] > self._revision:
            # The trail may be ahead of the rollout that was asked for a moment before.
            for entry in self._client.rollout_trail(rollout["endpoint"], _TRAIL_ENTRIES):
                if entry["rollout"] == rollout["id"] and entry["revision"] > self._revision:
                    self._line(entry_line(entry))
                    self._revision = entry["revision"]
            if advice := what_to_do(rollout):
                self._line(advice)
        verdict = rollout["verdict"]
        evidence = f"{rollout['step']} {verdict['result']}" if verdict else ""
        if evidence not in ("", self._evidence):
            self._evidence = evidence
            self._line(f"  evidence at step {rollout['step']}: {verdict_sentence(rollout)}")

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class JsonLines:
    """Every change as one line of JSON."""

    def __init__(self) -> None:
        self._version = ""

    def show(self, rollout: Json) -> None:
        if rollout["version"] != self._version:
            self._version = rollout["version"]
            print(json.dumps(rollout, ensure_ascii=False), flush=True)


class Screen:
    """The whole rollout, drawn again over itself (ECMA-48: CPL moves up, ED erases below)."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines = 0

    def show(self, rollout: Json) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = overview(rollout, datetime.now(UTC), columns - 1).splitlines()
        # What has scrolled away, or was wrapped by the terminal, cannot be drawn over.
        lines = [line[: columns - 1] for line in lines[: max(1, rows - 1)]]
        back = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._lines = len(lines)
        print(back + "\n".join(lines), file=self._out, flush=True)


def watch(client: AdminClient, rollout: Json, display: Display, timeout_s: float | None) -> Json:
    """As `follow`; an interrupt says that the rollout goes on."""
    try:
        return follow(client, rollout, display, timeout_s)
    except KeyboardInterrupt:
        name = rollout["endpoint"]
        say(
            f"\nThe rollout goes on. Look again: crossfade rollout watch {name}. End it: crossfade rollout abort {name}"
        )
        raise


def conclude(rollout: Json) -> int:
    """Say how it ended; returns the exit code."""
    say(outcome_sentence(rollout))
    return exit_code(rollout)
