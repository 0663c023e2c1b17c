"""Which requests leave a record, for how long, and how many records there can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answers import Answer, Answered, Failed, Form, Key, OutputRecord, Record
from serving.samples_api import read_order, written_order
from serving.sampling import MAX_BYTES, MAX_RECORDS, Order, Sampling
from tests.statistics import assert_share

MARKED = {b"x-crossfade-mirrored": b"1"}


def order(share: float = 1.0, after: int = 0) -> Order:
    return Order(share, 10.0, after, has_repeats=False)


def on(share: float = 1.0) -> Sampling:
    sampling = Sampling()
    sampling.renew(order(share), 0.0)
    return sampling


def named(request_id: str) -> dict[bytes, bytes]:
    return {**MARKED, b"x-request-id": request_id.encode()}


def record(number: int) -> Record:
    return Answer(Key(str(number), number), Failed("BadRequest"))


def test_nothing_is_sampled_unless_it_is_ordered() -> None:
    sampling = Sampling()

    sampling.keep(record(1), 0.0)

    assert not sampling.is_on
    assert sampling.renew(order(), 1.0).records == ()
    assert sampling.is_on


def test_only_mirrored_requests_with_an_id_are_chosen() -> None:
    sampling = on()

    assert sampling.chosen(named("a"), b"{}") is not None
    assert sampling.chosen({b"x-request-id": b"a"}, b"{}") is None
    assert sampling.chosen(MARKED, b"{}") is None


def test_two_replicas_choose_the_same_requests_and_as_many_as_they_were_told() -> None:
    one, other = on(0.1), on(0.1)
    requests = [(named(f"order-{number}"), b"{}") for number in range(4000)]

    chosen = [one.chosen(*request) for request in requests]

    assert chosen == [other.chosen(*request) for request in requests]
    assert_share(sum(key is not None for key in chosen), 10, len(requests))


def test_of_a_client_that_always_gives_the_same_id_a_share_is_chosen_too() -> None:
    sampling = on(0.2)

    chosen = [sampling.chosen(named("same"), b"[%d]" % number) for number in range(2000)]

    assert_share(sum(key is not None for key in chosen), 20, 2000)
    assert len({key for key in chosen if key}) == sum(key is not None for key in chosen)


def test_share_0_chooses_nobody_and_share_1_everybody() -> None:
    nobody, everybody = on(0.0), on(1.0)
    requests = [(named(str(number)), b"") for number in range(500)]

    assert not any(nobody.chosen(*request) for request in requests)
    assert all(everybody.chosen(*request) for request in requests)


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000])
def test_bodies_of_the_same_request_id_are_told_apart(size: int) -> None:
    sampling = on()
    body = b"a" * size

    keys = {sampling.chosen(named("same"), text) for text in (body, b"b" + body[1:], body[:-1] + b"b", body + b"a")}

    assert len(keys) == 4


def test_records_are_handed_out_once_with_their_age_and_kept_for_others_who_ask() -> None:
    sampling = on()
    sampling.keep(record(1), 1.0)
    sampling.keep(record(2), 2.0)

    first = sampling.renew(order(after=0), 5.0)
    sampling.keep(record(3), 6.0)
    second = sampling.renew(order(after=first.last), 7.0)

    assert [(sampled.record, sampled.age_s) for sampled in first.records] == [(record(1), 4.0), (record(2), 3.0)]
    assert [sampled.record for sampled in second.records] == [record(3)]
    assert (first.last, second.last, first.has_gap, second.has_gap) == (2, 3, False, False)
    assert len(sampling.renew(order(after=0), 8.0).records) == 3


def test_when_the_lease_ends_everything_is_forgotten_but_the_numbering() -> None:
    sampling = on()
    sampling.keep(record(1), 1.0)

    sampling.end()
    sampling.keep(record(2), 2.0)
    again = sampling.renew(order(after=1), 3.0)

    assert again.records == ()
    assert (again.last, again.has_gap) == (1, False)


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 40))
def test_the_ring_says_when_records_fell_out_before_they_were_asked_for(kept: list[int], every: int) -> None:
    """Whoever asks sees each record once, in order, or is told of a gap."""
    sampling = on()
    seen: list[Record] = []
    made: list[Record] = []
    last = 0
    missed = False
    for turn, count in enumerate(kept):
        for _ in range(count):
            made.append(record(len(made)))
            sampling.keep(made[-1], 0.0)
        if turn % every == 0:
            batch = sampling.renew(order(after=last), 0.0)
            seen += [sampled.record for sampled in batch.records]
            missed |= batch.has_gap
            last = batch.last
            assert len(batch.records) <= MAX_RECORDS
    assert last <= len(made)
    assert missed or seen == made[:last]
    assert not missed or len(seen) < last


def test_records_do_not_take_more_memory_than_allowed() -> None:
    sampling = on()
    big = Answer(Key("a", 1), Answered((OutputRecord("y", "INT8", (1,), Form.WHOLE, bytes(MAX_BYTES // 10)),)))
    for _ in range(50):
        sampling.keep(big, 0.0)

    batch = sampling.renew(order(), 1.0)

    assert 1 <= len(batch.records) <= 10
    assert batch.has_gap


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"share": 2, "lease_s": 1, "after": 0, "has_repeats": false}', b'{"share": null}']
)
def test_what_is_no_order_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not an order"):
        read_order(text)


def test_an_order_survives_its_way() -> None:
    sent = Order(0.25, 10.0, 17, has_repeats=True)

    assert read_order(written_order(sent)) == sent
