"""Following the pull of a model: a bar on a terminal, else a line now and then. Nothing at all when it is quick.

The pull goes on without whoever looks; an interrupt ends the looking only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from router.cli.output import duration, say
from router.domain.errors import CrossfadeError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from router.client import AdminClient

PATIENCE_S = 2.0  # what is done by then is not worth a word
_SLICE_S = 0.3
_LINE_EVERY_S = 10.0


class PullFailed(CrossfadeError):
    """In the control plane's words."""


class Display(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, at: Any) -> None: ...

    def show(self, pull: Mapping[str, Any]) -> None:
        """Called again and again, and with every pull that has not ended after the patience."""


def follow(
    client: AdminClient, reference: str, *, only_resolve: bool = False, is_quiet: bool = False
) -> dict[str, Any]:
    """Pull a model, or what is needed to resolve it, and return the pull as it is when it has ended."""
    pull = client.start_pull(reference, PATIENCE_S, only_resolve=only_resolve)
    if pull["state"] != "running":
        return pull
    with _display(is_quiet) as display:
        while pull["state"] == "running":
            display.show(pull)
            pull = client.pull(pull["id"], _SLICE_S)
        display.show(pull)
    return pull


def references_in(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """The models that the documents name, each once. A deployment whose model runs elsewhere names none."""
    deployments = (document for document in documents if document["kind"] == "Deployment")
    return list(dict.fromkeys(deployment["model"] for deployment in deployments if "model" in deployment))


def fetch_first(client: AdminClient, documents: Iterable[Mapping[str, Any]], *, is_quiet: bool = False) -> None:
    """Have the models of the documents in the cache, so that applying them is quick. Failures are not told here: that
    is for applying, which knows whether it can do without."""
    for reference in references_in(documents):
        follow(client, reference, is_quiet=is_quiet)


class Transferring:
    """Tells of bytes that this process moves itself, such as an export, like of a pull. Call it with every count.

    `total` in bytes, -1 when it is not known.
    """

    def __init__(
        self, what: str, total: int, *, is_quiet: bool = False, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._done = what, total, 0
        self._display = _display(is_quiet)
        self._clock_s = clock_s
        self._began_s = self._told_s = clock_s()
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_shown:
            self._display.__exit__(kind, error, at)

    def __call__(self, count: int) -> None:
        self._done += count
        now_s = self._clock_s()
        if now_s - self._began_s < PATIENCE_S or now_s - self._told_s < _SLICE_S:
            return
        self._told_s = now_s
        if not self._is_shown:
            self._display.__enter__()
            self._is_shown = True
        rate = self._done / (now_s - self._began_s)
        self._display.show(
            {
                "reference": self._what,
                "state": "running",
                "waiting": "",
                "done_bytes": self._done,
                "total_bytes": self._total,
                "bytes_per_s": rate,
                "left_s": (self._total - self._done) / rate if self._total >= 0 and rate else -1,
            }
        )


def line(pull: Mapping[str, Any]) -> str:
    """Such as `models:/fraud/3: 120 MB of 1.2 GB, 35 MB/s, 31 s left`."""
    done, total = size(pull["done_bytes"]), pull["total_bytes"]
    parts = [f"{done} of {size(total)}" if total >= 0 else done]
    if pull["waiting"]:
        parts.append(f"waiting: {pull['waiting']}")
    elif pull["bytes_per_s"] > 0:
        parts.append(f"{size(pull['bytes_per_s'])}/s")
        parts += [f"{duration(pull['left_s'])} left"] if pull["left_s"] >= 0 else []
    return f"{pull['reference']}: {', '.join(parts)}"


def size(byte_count: float) -> str:
    """Such as 1.5 GB."""
    amount, unit = float(byte_count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def _display(is_quiet: bool) -> Display:
    if is_quiet:
        return _Nothing()
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Nothing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    def show(self, pull: Mapping[str, Any]) -> None:
        return


class _Lines(_Nothing):
    def __init__(self) -> None:
        self._told_s = -_LINE_EVERY_S

    def show(self, pull: Mapping[str, Any]) -> None:
        if pull["state"] != "running" or time.monotonic() - self._told_s >= _LINE_EVERY_S:
            self._told_s = time.monotonic()
            say(line(pull))


class _Bar(_Nothing):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[words]}"))
        self._bars: Progress = Bars(*columns, console=Console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, pull: Mapping[str, Any]) -> None:
        reference = pull["reference"]
        words = line(pull).removeprefix(f"{reference}: ")
        total = pull["total_bytes"] if pull["total_bytes"] >= 0 else None
        if self._task is None:
            self._task = self._bars.add_task(reference, total=total, words=words)
        self._bars.update(self._task, completed=pull["done_bytes"], total=total, words=words)
