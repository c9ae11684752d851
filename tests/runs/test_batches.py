"""The plan holds everything once; what is finished is not computed again, and what is damaged is."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignment.runs import stopping
from alignment.runs.batches import Finished, Pending, compute_in_batches, plan_batches
from alignment.runs.ranks import Ranks


def test_batches_fit_the_budget_and_hold_everything_once():
    sizes = [5, 1, 9, 3, 3, 20, 7, 1, 1, 4]
    batches = plan_batches(sizes, budget=12)
    assert sorted(item for batch in batches for item in batch) == list(range(10))
    for batch in batches:
        assert len(batch) * max(sizes[item] for item in batch) <= 12 or len(batch) == 1
    assert batches[0] == [5]


def test_finished_batches_are_not_computed_again_and_damaged_ones_are(tmp_path):
    computed: list[list[int]] = []

    def compute(batch: list[int]) -> Pending:
        if len(computed) == 1 and batch == [2]:
            raise KeyboardInterrupt
        computed.append(batch)
        return str(batch).encode

    def finish():
        return compute_in_batches(tmp_path, "items", [2, 2, 3, 4], 4, compute, Ranks())

    with pytest.raises(KeyboardInterrupt):
        finish()
    assert computed == [[3]] and not list(tmp_path.glob("*"))  # the device may still have been at it
    computed.append([])
    finish()
    assert computed[2:] == [[3], [2], [0, 1]]
    path = tmp_path / "batch-000001"
    path.write_bytes(path.read_bytes()[:-1])
    done = finish()
    assert computed[5:] == [[2]]
    assert list(done) == list(done) == [([3], b"[3]"), ([2], b"[2]"), ([0, 1], b"[0, 1]")]


def test_a_rank_that_is_free_takes_the_next_batch(tmp_path, two_ranks):
    """The slow rank computes one of eight, and none is computed twice."""
    computed: dict[int, list[int]] = {0: [], 1: []}

    def run(ranks: Ranks) -> Finished:
        def compute(batch: list[int]) -> Pending:
            time.sleep((0.01, 1.0)[ranks.rank])
            computed[ranks.rank] += batch
            return str(batch).encode

        return compute_in_batches(tmp_path, "items", [1] * 8, 1, compute, ranks)

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(run, two_ranks))
    assert len(computed[1]) == 1 and len(computed[0]) == 7
    assert sorted(computed[0] + computed[1]) == list(range(8))
    assert [items for items, _ in done[0]] == [[i] for i in range(8)]


def test_when_one_rank_is_asked_to_stop_none_takes_another_batch(tmp_path, two_ranks, monkeypatch):
    taken = []
    monkeypatch.setattr(stopping, "asked", lambda: len(taken) == 3)
    taken += itertools.islice(two_ranks[0].dealt(8, "items"), 2)
    for number in two_ranks[1].dealt(8, "items"):
        taken.append(number)
    monkeypatch.setattr(stopping, "asked", lambda: False)
    assert taken == [0, 1, 2] and list(two_ranks[0].dealt(8, "items")) == []
