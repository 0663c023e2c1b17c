"""Memory for Triton: leased, set aside, taken away, and none where there is no room."""

from __future__ import annotations

import os

from adapters.triton.bridge_memory import FOLDER, PREFIX, Region, Regions, left_over

MIB = 1 << 20


def is_there(region: Region) -> bool:
    return (FOLDER / region.name).exists()


def leased(regions: Regions, size: int) -> Region:
    region = regions.lease(size)
    assert region is not None
    return region


def test_a_region_is_used_again_while_it_is_large_enough_and_else_replaced() -> None:
    forgotten: list[str] = []
    regions = Regions(forgotten.append)
    first = leased(regions, 10)
    assert first.size == MIB
    regions.give_back(first)
    assert regions.lease(MIB) is first
    regions.give_back(first)
    second = leased(regions, MIB + 1)
    assert second.size == 2 * MIB
    assert forgotten == [first.name]
    assert not is_there(first)
    regions.give_back(second)
    third = leased(regions, 33 * MIB)
    assert third.size == 48 * MIB
    regions.give_back(third)
    regions.close()
    assert forgotten == [first.name, second.name, third.name]
    assert not is_there(third)


def test_those_that_are_leased_side_by_side_are_different() -> None:
    regions = Regions(lambda name: None)
    one, other = leased(regions, 1), leased(regions, 1)
    assert one.name != other.name
    for region in (one, other):
        regions.give_back(region)
    regions.close()


def test_what_is_set_aside_stays_until_its_user_was_started_again() -> None:
    regions, mine, yours = Regions(lambda name: None), object(), object()
    first, second = leased(regions, 1), leased(regions, 1)
    regions.set_aside(first, mine)
    regions.set_aside(second, yours)
    regions.forgotten_by(yours)
    assert is_there(first)
    assert not is_there(second)
    regions.close()
    assert not is_there(first)


def test_when_too_much_is_set_aside_nothing_more_is_leased() -> None:
    regions, triton = Regions(lambda name: None), object()
    while (region := regions.lease(1)) is not None:
        regions.set_aside(region, triton)
    regions.forgotten_by(triton)
    regions.give_back(leased(regions, 1))
    regions.close()


def test_without_room_nothing_is_leased_and_nothing_is_left() -> None:
    regions = Regions(lambda name: None)
    assert regions.lease(1 << 60) is None
    assert regions.lease(1 << 61) is None
    regions.give_back(leased(regions, 1))  # for less there is
    regions.close()
    assert not list(FOLDER.glob(f"{PREFIX}{os.getpid()}-*"))


def test_what_lives_is_not_left_over() -> None:
    region = Region(MIB)
    assert region.name not in left_over()
    assert is_there(region)
    region.close()
