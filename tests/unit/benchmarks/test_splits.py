"""The benchmark's judgement on observed splits: honest samplers pass, dishonest ones do not."""

import random
from collections import Counter

from benchmarks.changes import Splits, random_percents

NAMES = ["amber", "blue", "green"]


def sampled(dice: random.Random, percents: dict[str, int], requests: int = 200) -> Counter[str]:
    return Counter(dice.choices(list(percents), list(percents.values()), k=requests))


def test_an_honest_sampler_is_right_in_nearly_every_benchmark():
    right = 0
    for seed in range(100):
        dice, splits = random.Random(seed), Splits()
        for _ in range(100):
            percents = random_percents(dice, NAMES)
            splits.add(sampled(dice, percents), percents)
        right += splits.are_right
    assert right >= 97


def test_a_bias_too_small_for_any_single_change_is_found_in_the_sum():
    dice, splits = random.Random(1), Splits()
    for _ in range(200):
        splits.add(sampled(dice, {"blue": 53, "green": 47}), {"blue": 50, "green": 50})
    assert splits.bias_sigmas > 3
    assert not splits.are_right


def test_changes_that_come_late_are_found():
    dice, splits = random.Random(1), Splits()
    before = {"blue": 100}
    for _ in range(50):
        percents = random_percents(dice, NAMES)
        splits.add(sampled(dice, before), percents)
        before = percents
    assert len(splits.outside) > splits.allowed_outside
    assert not splits.are_right


def test_one_reply_of_a_deployment_without_traffic_is_too_many():
    splits = Splits()
    splits.add({"blue": 100, "green": 99, "amber": 1}, {"blue": 50, "green": 50})
    assert splits.unexpected == {"amber": 1}
    assert not splits.are_right


def test_random_percents_are_positive_and_sum_to_100():
    dice = random.Random(1)
    drawn = [random_percents(dice, NAMES) for _ in range(500)]
    assert all(sum(percents.values()) == 100 and min(percents.values()) > 0 for percents in drawn)
    assert all(percents.keys() <= set(NAMES) for percents in drawn)
    assert any(len(percents) == 1 for percents in drawn)
