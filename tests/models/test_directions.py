"""Which direction is taken: by induced pairs, at equal length, or by labelled pairs; and whether its halves agree."""

import pytest
import torch

from alignment.maths.discriminant import SHRINKAGES, discriminants
from alignment.models.directions import HALVINGS, SideStates, agreement_of_halves, best_direction, direction_by_labels
from alignment.types import StageFailed

PAIRS, WIDTH = 60, 6


def sides(*shifts: float, seed: int = 0, longer: torch.Tensor | None = None) -> SideStates:
    """A layer for each shift between the sides, along the first axis; the second one varies most within the sides."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([1.0, 6.0, 1.0, 1.0, 1.0, 1.0])
    shift = torch.tensor(shifts)[None, :, None] * torch.eye(WIDTH)[0]
    drawn = [torch.randn(PAIRS, len(shifts), WIDTH, generator=generator) * spread for _ in range(2)]
    longer = torch.zeros(PAIRS) if longer is None else longer
    batches = [list(range(start, PAIRS, 3)) for start in range(3)]
    return SideStates(list(range(1, len(shifts) + 1)), drawn[0] + shift, drawn[1], longer, batches)


@pytest.mark.parametrize("kind", ["smv", "discriminant"])
def test_the_layer_that_separates_held_out_pairs_best_is_taken(kind):
    states = sides(0.5, 4.0, 1.0)
    found = best_direction(kind, states, at_equal_length=False)
    assert found.layer == 2 == max(found.separation_by_layer, key=found.separation_by_layer.get)
    assert (found.kind, found.shrinkage in SHRINKAGES) == (kind, kind == "discriminant")
    alone = best_direction(kind, states.at([2]), at_equal_length=False)
    assert torch.equal(alone.vector, found.vector)


def test_a_discriminant_passes_by_what_varies_within_the_sides():
    states = sides(1.5)
    smv, discriminant = (best_direction(kind, states, False) for kind in ("smv", "discriminant"))
    cosines = [abs(torch.cosine_similarity(one.vector, torch.eye(WIDTH)[0], dim=0)) for one in (smv, discriminant)]
    assert cosines[1] > 0.85 > cosines[0]
    assert max(discriminant.separation_by_layer.values()) > max(smv.separation_by_layer.values())


def test_at_equal_length_a_layer_of_lengths_is_passed_by():
    longer = torch.randint(-30, -10, (PAIRS,), generator=torch.Generator().manual_seed(1)).float()
    states = sides(0.0, 3.0, longer=longer)
    states.positive[:, 0, 0] -= longer * 2  # layer 1 counts tokens
    assert best_direction("smv", states, at_equal_length=False).layer == 1
    assert best_direction("smv", states, at_equal_length=True).layer == 2


def test_labelled_pairs_choose_what_induced_ones_would_not():
    """Induced pairs are told apart in layer 1, labelled ones in layer 2 alone, across what varies most."""
    induced, labelled = sides(6.0, 2.0), sides(0.0, 2.0, seed=5)
    found = direction_by_labels(induced, labelled, at_equal_length=False)
    assert best_direction("smv", induced, False).layer == 1
    assert (found.layer, found.kind) == (2, "discriminant")


def test_the_agreement_of_halves_is_of_the_directions_own_kind():
    states, generator = sides(3.0, 3.0), torch.Generator().manual_seed(7)
    direction = best_direction("discriminant", states, False)
    found = agreement_of_halves(direction, states, seed=7)
    halves = torch.randperm(PAIRS, generator=generator).chunk(2)
    at = direction.layer - 1
    one, other = (
        discriminants(states.positive[half, at], states.negative[half, at], [direction.shrinkage])[0] for half in halves
    )
    assert len(found) == HALVINGS and found[0] == pytest.approx(torch.cosine_similarity(one, other, dim=0).item())
    smv = best_direction("smv", states, False)
    assert agreement_of_halves(smv, states, 7)[0] != pytest.approx(found[0])
    twice = SideStates([1], states.positive[:, :1].clone(), states.negative[:, :1].clone(), states.longer, [])
    twice.positive[:], twice.negative[:] = torch.ones(WIDTH), torch.zeros(WIDTH)
    assert min(agreement_of_halves(smv.__class__("smv", 1), twice, 0)) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["smv", "discriminant"])
def test_a_direction_that_is_no_number_is_refused(kind):
    states = sides(1.0)
    states.positive[0, 0, 0] = torch.inf
    with pytest.raises(StageFailed, match="direction: it is zero or not a number at some layer"):
        best_direction(kind, states, False)
