"""Rows are dealt to ranks by their tokens, and no optimiser step has other rows for it."""

from itertools import chain

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from alignment.trainers.dealing import BalancedSampler, deal, seeded
from tests.trainers.trl_alone import QUIET, checks

RANKS, SIZE, ROWS = 3, 4, 100
TOKENS = np.random.default_rng(0).lognormal(5, 0.8, ROWS).astype(int).tolist()


def test_the_longest_row_left_goes_to_the_rank_with_the_fewest_tokens_that_has_room():
    # 9 to a, 8 to b, 5 to b (8 < 9), b is full: 4 to a, and in each the order that they had
    assert deal([10, 11, 12, 13], [5, 9, 4, 8], ranks=2) == [11, 12, 10, 13]
    assert deal([0, 1, 2, 3], [1, 1, 1, 1], ranks=2) == [0, 2, 1, 3]


def test_all_rows_are_dealt_and_ranks_wait_less():
    rng = np.random.default_rng(1)
    slowest, mean = {"dealt": 0, "in turn": 0}, 0
    for _ in range(50):
        rows = rng.permutation(ROWS)[: RANKS * SIZE].tolist()
        dealt = deal(rows, [TOKENS[row] for row in rows], RANKS)
        assert sorted(dealt) == sorted(rows)
        mean += sum(TOKENS[row] for row in rows) / RANKS
        for way, order in (("dealt", dealt), ("in turn", rows)):
            slowest[way] += max(np.reshape([TOKENS[row] for row in order], (RANKS, SIZE)).sum(1))
    assert slowest["dealt"] < 1.1 * mean < 1.25 * mean < slowest["in turn"]


def loader(rank: int, order, ranks: int = RANKS) -> DataLoader:
    size = SIZE * RANKS // ranks
    sampler = BalancedSampler(order, lambda: TOKENS, ranks, size) if ranks > 1 else order
    return prepare_data_loader(
        DataLoader(range(ROWS), size, sampler=sampler), num_processes=ranks, process_index=rank, put_on_device=False,
        use_seedable_sampler=True, data_seed=7,
    )  # fmt: skip


def epochs(order, rank: int = 0, ranks: int = RANKS) -> list[list[list[int]]]:
    found = loader(rank, order, ranks)
    batches = []
    for epoch in (0, 1):
        found.set_epoch(epoch)
        batches.append([batch.tolist() for batch in found])
    return batches


@checks("accelerate.data_loader", "SeedableRandomSampler")
@pytest.mark.parametrize("kind", [RandomSampler, SequentialSampler])
def test_a_step_has_the_rows_that_it_has_on_one_rank(kind):
    """Also in the second epoch, which begins anew by its number; the last batches are filled up as accelerate does."""
    alone = epochs(kind(range(ROWS)), ranks=1)
    ranks = [epochs(seeded(kind(range(ROWS)), 7), rank) for rank in range(RANKS)]
    assert (alone[0] == alone[1]) == (kind is SequentialSampler)
    for epoch in (0, 1):
        steps = list(zip(*(rank[epoch] for rank in ranks), strict=True))
        assert len(steps) == len(alone[epoch]) == 9
        for step, rows in zip(steps[:-1], alone[epoch][:-1], strict=True):
            assert sorted(chain(*step)) == sorted(rows)
        assert list(chain(*steps[-1]))[: len(alone[epoch][-1])] == alone[epoch][-1]


def test_an_epoch_gone_on_with_is_the_same():
    """As Trainer does it when it resumes: the first batches of the epoch are skipped."""
    whole, rest = loader(1, seeded(RandomSampler(range(ROWS)), 7)), loader(1, seeded(RandomSampler(range(ROWS)), 7))
    for one in (whole, rest):
        one.set_epoch(4)
    skipped = [batch.tolist() for batch in skip_first_batches(rest, 5)]
    assert skipped == [batch.tolist() for batch in whole][5:]


@checks("transformers.Trainer", "_get_train_sampler")
def test_trainers_order_is_a_random_sampler(tmp_path):
    rows = Dataset.from_list([{"input_ids": [1, 2]}] * 8)
    trainer = Trainer(torch.nn.Linear(1, 1), TrainingArguments(str(tmp_path), **QUIET), train_dataset=rows)
    assert type(trainer._get_train_sampler(rows)) is RandomSampler
    assert isinstance(seeded(trainer._get_train_sampler(rows), 3), SeedableRandomSampler)
