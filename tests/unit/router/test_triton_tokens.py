"""The files of tokens of restricted Tritons: read when they are wanted, put in force when they are good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.triton.tokens import TokenFiles
from router.domain.tls import Secret
from router.domain.triton_token import TritonToken
from router.events import EventLog
from router.triton_tokens import TritonTokens


@dataclass
class Keeper:
    """Implements `TokenKeeper`: what was put in force, in turn."""

    values: list[bytes] = field(default_factory=list)
    wanted: list[TritonToken] = field(default_factory=list)

    def set_triton_token(self, token: TritonToken, value: Secret) -> None:
        self.values.append(value.value)

    def keep_triton_tokens(self, wanted: Iterable[TritonToken]) -> None:
        self.wanted = list(wanted)


class World:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "token"
        self.token = TritonToken("x-token", str(self.file))
        self.keeper, self.events = Keeper(), EventLog(lambda: datetime.now(UTC))
        self.tokens = TritonTokens(TokenFiles(), self.keeper, self.events)

    def look(self, content: str | None = None) -> str:
        """Returns the trouble after one look."""
        if content is not None:
            self.file.write_text(content)
        self.tokens.look([self.token])
        return self.tokens.trouble(self.token)

    def told(self) -> list[str]:
        return [event.message for event in self.events.after(0)]


@pytest.fixture
def it(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_good_file_is_put_in_force_once_and_a_new_one_in_its_turn(it: World) -> None:
    assert [it.look("x-token=abc=\n"), it.look(), it.look("x-token=a-new-one")] == ["", "", ""]
    assert it.keeper.values == [b"abc=", b"a-new-one"]
    assert it.keeper.wanted == [it.token]


def test_one_that_was_never_good_is_a_trouble_until_it_is(it: World) -> None:
    assert it.look() == f"{it.file} cannot be read: No such file or directory"
    assert it.look("x-token=abc") == ""


@pytest.mark.parametrize(
    "content",
    ["hush", "x-token", "x-other=hush", "AWS_KEY=hush\nx-token=hush", "x-token=", "x-token=hush hush", "x-token=h\n=i",
     "x-token=" + "h" * 5000, "x-token=grü\xdfe"],
)  # fmt: skip
def test_what_does_not_say_itself_that_it_is_this_token_is_not_sent_and_not_repeated(it: World, content: str) -> None:
    it.look("x-token=abc")
    it.file.write_bytes(content.encode("latin-1"))

    assert [it.look(), it.look()] == ["", ""]  # the one before stays
    assert it.keeper.values == [b"abc"]
    (message,) = it.told()
    assert str(it.file) in message
    assert "hush" not in message


def test_what_nobody_wants_any_more_is_forgotten(it: World) -> None:
    it.look("x-token=abc")
    it.tokens.look([])
    assert it.keeper.wanted == []
    assert it.tokens.trouble(it.token) == f"{it.file} is not read yet"
