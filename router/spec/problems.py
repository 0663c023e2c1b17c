"""What is wrong with a spec: where it stands, what it says, what would be accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.domain.errors import CrossfadeError


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text. `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `key` is the path inside the document ("traffic.green"), empty for the document as a whole.

    `document` counts the documents of the input from 0; it is None when the text could not be split into documents.
    `mark` is None when the input was not a text.
    """

    key: str
    message: str
    hint: str = ""
    document: int | None = None
    mark: Mark | None = None

    def __str__(self) -> str:
        place = f"{self.mark}: " if self.mark else "" if self.document is None else f"document {self.document + 1}: "
        key = f"{self.key}: " if self.key else ""
        return f"{place}{key}{self.message}" + (f" ({self.hint})" if self.hint else "")


class SpecProblems(CrossfadeError):
    """The input is refused whole. `problems` is never empty and holds every mistake that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class OutOfReach(SpecProblems):
    """The input may be right: what it names cannot be had at present. Every problem is of that kind."""


def nearest(word: str, known: Iterable[str], closeness: float = 0.75) -> str | None:
    """The known word that `word` was meant to be, in capitals or not; None when none is as close (gpu is no cpu)."""
    written = {name.casefold(): name for name in sorted(known)}
    near = difflib.get_close_matches(word.casefold(), written, n=1, cutoff=closeness)
    return written[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown `word`: the nearest known one, else all of them."""
    names = sorted(known)
    if near := nearest(word, names, closeness=0.6):
        return f"did you mean {near!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"
