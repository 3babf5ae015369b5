"""Ranks meet in keys that no earlier start has used, in whatever order they come."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch import distributed as dist

from mixonomy import rendezvous
from mixonomy.rendezvous import name_of_start

LONG = timedelta(seconds=60)


def start(store: dist.Store, size: int, last: int | None = None) -> set[str]:
    """The names that ranks find, of which one comes when all the others have looked around."""

    def rank(number: int) -> str:
        if number == last:
            time.sleep(10 * rendezvous.POLL_S)
        return name_of_start(store, number, size, LONG)

    with ThreadPoolExecutor(size) as pool:
        return set(pool.map(rank, range(size)))


@pytest.mark.parametrize("last", [None, 0, 1, 2])
def test_ranks_find_one_name_and_another_one_at_each_start(last):
    store = dist.HashStore()
    names = [start(store, 3, last) for _ in range(3)]
    assert [len(found) for found in names] == [1, 1, 1] and len(set.union(*names)) == 3


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_ranks_that_were_gone_before_all_had_come_are_not_waited_for(gone):
    store = dist.HashStore()
    first = start(store, 3)
    for number in {0, 1, 2} - {gone}:  # two of three come, and are gone again
        with pytest.raises(dist.DistStoreError, match="not all 3 ranks came within"):
            name_of_start(store, number, 3, timedelta(seconds=0.1))
    second = start(store, 3, last=gone)
    assert len(second) == 1 and second != first


def test_another_number_of_ranks_may_come_after():
    store = dist.HashStore()
    names = [start(store, size) for size in (2, 3, 1)]
    assert [len(found) for found in names] == [1, 1, 1] and len(set.union(*names)) == 3


def test_who_does_not_come_is_said_in_time():
    with pytest.raises(dist.DistStoreError, match="not all 2 ranks came within 0:00:00.100000"):
        name_of_start(dist.HashStore(), 0, 2, timedelta(seconds=0.1))
