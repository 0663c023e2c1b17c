"""Which Triton is asked next: those that answer, the least busy, each in its turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from adapters.triton.bridge_pool import Pool
from adapters.triton.bridge_signature import ServedModel
from router.domain.errors import ModelUnavailable
from serving.signature import Signature, TensorSpec

X = (TensorSpec("x", "FP32", (-1, 2)),)
MODEL = ServedModel(Signature(X, X, True, 8), 1)
OTHER = ServedModel(Signature(X, X, True, 4), 1)


class Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        self._code, self._words = code, words

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._words


GONE = Refused(grpc.StatusCode.UNAVAILABLE, "connection refused")
LATE = Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "")


@dataclass(eq=False)
class Scripted:
    """Stands for a `Server`. `says`: whether the model is ready, or what comes instead of an answer."""

    name: str
    says: bool | Refused = True
    serves: ServedModel | ModelUnavailable = MODEL
    trouble: str = "it was not asked yet"
    in_flight: int = 0
    late: int = 0
    obstacle: str = ""
    has_restarted: bool = False
    forgot: int = 0
    ready: bool = field(init=False, default=False)

    def __str__(self) -> str:
        return self.name

    def renew(self) -> str:
        return self.obstacle

    def ask_ready(self) -> Any:
        assert not self.obstacle
        return self

    def why_not(self, error: Refused) -> str:
        return error.details()

    def result(self) -> Any:
        if isinstance(self.says, Refused):
            raise self.says
        self.ready = self.says
        return self

    def model(self) -> ServedModel:
        if isinstance(self.serves, ModelUnavailable):
            raise self.serves
        return self.serves

    def was_started_again(self) -> bool:
        return self.has_restarted

    def forget_regions(self) -> None:
        self.forgot += 1


def pool_of(*servers: Scripted) -> tuple[Pool, list[Any]]:
    """Of servers that have been asked once, and who was said to have been started again."""
    restarted: list[Any] = []
    pool = Pool(servers, restarted.append)  # type: ignore[arg-type]
    pool.look()
    return pool, restarted


def names(pool: Pool, count: int) -> list[str]:
    return [str(pool.take(())) for _ in range(count)]


def test_those_that_answer_take_turns_and_the_least_busy_is_first() -> None:
    a, b, c = Scripted("a"), Scripted("b"), Scripted("c", GONE)
    pool, _ = pool_of(a, b, c)
    assert sorted(names(pool, 2)) == ["a", "b"]
    assert sorted(names(pool, 2)) == ["a", "b"]
    pool.give_back(b)  # type: ignore[arg-type]
    assert names(pool, 1) == ["b"]


def test_one_that_was_tried_is_not_tried_again() -> None:
    a, b = Scripted("a"), Scripted("b")
    pool, _ = pool_of(a, b)
    assert pool.take((a,)) is b  # type: ignore[arg-type,comparison-overlap]
    assert pool.take((a, b)) is None  # type: ignore[arg-type]
    assert pool.has_another((), a)  # type: ignore[arg-type]
    assert not pool.has_another((b,), a)  # type: ignore[arg-type]


def test_when_none_answers_each_ones_reason_is_told() -> None:
    a, b = Scripted("a", GONE), Scripted("b", False)
    pool, _ = pool_of(a, b)
    assert pool.trouble == "a: connection refused; b: the model is not ready"
    assert pool.take(()) is None
    b.says = True
    pool.look()
    assert pool.trouble == ""


def test_one_whose_files_cannot_be_used_is_not_asked_and_the_others_are() -> None:
    one, other = Scripted("one", obstacle="/tls/key.pem is encrypted"), Scripted("other")
    pool, _ = pool_of(one, other)
    assert pool.take([]) is other
    assert one.trouble == one.obstacle

    one.obstacle = ""
    pool.look()
    assert one.trouble == ""


def test_one_that_is_late_once_may_be_busy_and_twice_hangs() -> None:
    a = Scripted("a")
    pool, _ = pool_of(a)
    a.says = LATE
    pool.look()
    assert pool.trouble == ""
    pool.look()
    assert pool.trouble == "a: no answer within 2 s"
    a.says = True
    pool.look()
    a.says = LATE
    pool.look()
    assert pool.trouble == ""


def test_one_that_is_refused_is_left_at_once() -> None:
    a = Scripted("a")
    pool, _ = pool_of(a)
    a.says = GONE
    pool.look()
    assert pool.trouble == "a: connection refused"


def test_one_that_comes_back_with_another_model_is_not_asked() -> None:
    a, b = Scripted("a"), Scripted("b", GONE, OTHER)
    pool, _ = pool_of(a, b)
    b.says = True
    pool.look()
    assert "other inputs or outputs" in b.trouble
    b.serves = ModelUnavailable("decoupled")
    pool.look()
    assert b.trouble == "decoupled"
    b.serves = MODEL
    pool.look()
    assert b.trouble == ""


def test_what_cannot_be_bridged_is_told_at_the_first_look() -> None:
    with pytest.raises(ModelUnavailable, match="decoupled"):
        pool_of(Scripted("a", serves=ModelUnavailable("decoupled")))


def test_one_that_was_started_again_is_told_of_and_one_that_only_hung_is_not() -> None:
    a = Scripted("a")
    pool, restarted = pool_of(a)
    a.says = GONE
    pool.look()
    a.says = True
    pool.look()
    assert (restarted, a.forgot) == ([], 0)
    a.says, a.has_restarted = GONE, True
    pool.look()
    a.says = True
    pool.look()
    assert (restarted, a.forgot) == ([a], 1)
