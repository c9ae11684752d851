"""Rows that lie in memory once are trained on as copies of them for every fold are."""

import pytest
import torch

from alignment.maths.cross_fitting import _folds, _trained
from alignment.maths.early_stopping import FoldTraining
from alignment.maths.hybrid import GATES, first_head
from alignment.maths.probes import Probes
from alignment.maths.row_training import RowTraining


@pytest.mark.parametrize("gate", GATES)
def test_as_trainings_on_copies_of_the_rows(gate):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40, 5, dtype=torch.float64, generator=generator)
    folds = _folds(20, generator, None)
    probes = [
        Probes(*(torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((3, 5), (3,))))
        for _ in range(len(folds) + 1)
    ]
    heads = [first_head(fitted, gate, 1 if gate == "best_layer" else None) for fitted in probes]
    copies, rows = FoldTraining(x, folds, heads, 1.0), RowTraining(x, _trained(folds, 20), heads, 1.0)
    for _ in range(3):
        torch.testing.assert_close(rows.heldout_gaps(), copies.heldout_gaps())
        FoldTraining.step([copies])
        RowTraining.step([rows])
    for ours, theirs in zip(rows.heads, copies.heads, strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight)
        torch.testing.assert_close(ours.bias, theirs.bias)


def test_inner_folds_keep_a_prompt_together_and_without_prompts_are_as_ever():
    prompts = torch.arange(60) // 4
    folds = _folds(60, torch.Generator().manual_seed(0), prompts)
    assert [len(set(prompts[fold].tolist())) for fold in folds] == [3] * 5 and sum(map(len, folds)) == 60
    alone = _folds(12, torch.Generator().manual_seed(0), None)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert [fold.tolist() for fold in alone] == [order[i::5].sort().values.tolist() for i in range(5)]
