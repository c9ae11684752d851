"""Legend's invariants (by number, as docs/legend.md lists them), the bins, and the authors' projection."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alignment.maths.direction import (
    StandardMarginVector,
    length_free_separation,
    random_direction,
    separation,
    unit,
)
from alignment.maths.margins import (
    compared_margins,
    cosine_margin,
    distance_margin,
    fit_binning,
    kinds_by_seed,
    signed_margin,
)
from alignment.types import UserError

PAIRS, LAYERS, WIDTH = 40, 3, 8


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor]:
    """Positive and negative answers, (pair, layer, width)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(PAIRS, LAYERS, WIDTH, generator=generator) + shift for shift in (0.7, 0.0))


def smv_of(positive: torch.Tensor, negative: torch.Tensor, batch: int = 7) -> StandardMarginVector:
    smv = StandardMarginVector(LAYERS, WIDTH)
    for start in range(0, PAIRS, batch):
        part = slice(start, start + batch)
        smv.add(positive[part] - negative[part], list(range(PAIRS))[part])
    return smv


def test_the_vector_is_the_mean_difference_however_it_is_batched(states):
    positive, negative = states
    expected = (positive.double() - negative.double()).mean(dim=0)
    for batch in (1, 7, PAIRS):
        torch.testing.assert_close(smv_of(positive, negative, batch).vector, expected)


def test_swapping_answers_turns_the_margin_round_and_equal_answers_have_none(states):
    """Invariant 1."""
    chosen, rejected, direction = states[0][:, 0], states[1][:, 0], states[0][0, 0]
    assert torch.equal(signed_margin(chosen, rejected, direction), -signed_margin(rejected, chosen, direction))
    assert not signed_margin(chosen, chosen, direction).any()


@pytest.mark.parametrize("length", [1e-3, 0.5, 40.0])
def test_the_length_of_the_direction_does_not_matter(states, length):
    """Invariant 2."""
    chosen, rejected, direction = states[0][:, 0], states[1][:, 0], states[0][0, 0]
    margins = signed_margin(chosen, rejected, direction)
    torch.testing.assert_close(signed_margin(chosen, rejected, length * direction), margins)
    torch.testing.assert_close(signed_margin(chosen, rejected, -length * direction), -margins)


def test_the_mean_margin_of_the_induced_pairs_is_the_length_of_the_vector(states):
    """Invariant 3."""
    vector = smv_of(*states).vector.float()
    for layer in range(LAYERS):
        margins = signed_margin(states[0][:, layer], states[1][:, layer], vector[layer])
        torch.testing.assert_close(margins.mean(), vector[layer].norm())


def test_what_is_orthogonal_to_the_direction_does_not_count(states):
    """Invariant 4."""
    chosen, rejected, direction = states[0][:, 0], states[1][:, 0], states[0][0, 0]
    beside = torch.randn(PAIRS, WIDTH, generator=torch.Generator().manual_seed(1))
    beside -= (beside @ unit(direction))[:, None] * unit(direction)
    margins = signed_margin(chosen, rejected, direction)
    torch.testing.assert_close(signed_margin(chosen + beside, rejected, direction), margins)
    assert not torch.allclose(signed_margin(chosen + direction, rejected, direction), margins)


def test_margins_are_what_the_authors_code_computes(states):
    """annotation.py: (pred1 - pred2).dot(SV) / SV_norm, one pair at a time in numpy."""
    chosen, rejected, vector = states[0][:, 0].numpy(), states[1][:, 0].numpy(), smv_of(*states).vector[0].numpy()
    norm = np.linalg.norm(vector)
    expected = [(one - other).dot(vector) / norm for one, other in zip(chosen, rejected, strict=True)]
    margins = signed_margin(states[0][:, 0], states[1][:, 0], torch.from_numpy(vector).float())
    np.testing.assert_allclose(margins.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_ablations_by_hand():
    chosen, rejected = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    torch.testing.assert_close(distance_margin(chosen, rejected), torch.tensor([5.0, 2.0**0.5]))
    torch.testing.assert_close(cosine_margin(chosen, rejected), torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, same, other = (random_direction(2, 5, generator) for generator in generators)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_heldout_projections_use_the_other_folds_only(states):
    """The slow way: for every pair, the mean over the pairs of the other folds."""
    positive, negative = states
    differences = (positive - negative).double()
    found = smv_of(positive, negative).heldout_projections(positive - negative, list(range(PAIRS)))
    for pair in range(PAIRS):
        others = [i for i in range(PAIRS) if i % 5 != pair % 5]
        vector = differences[others].mean(dim=0)
        expected = (differences[pair] * vector).sum(dim=-1) / vector.norm(dim=-1)
        torch.testing.assert_close(found[pair], expected)


def test_separation_finds_the_layer_that_tells_the_answers_apart():
    generator = torch.Generator().manual_seed(0)
    shift = torch.tensor([0.0, 3.0, 0.3])[None, :, None]
    positive, negative = (torch.randn(PAIRS, LAYERS, WIDTH, generator=generator) + s for s in (shift, 0 * shift))
    projections = smv_of(positive, negative).heldout_projections(positive - negative, list(range(PAIRS)))
    assert separation(projections).argmax() == 1


def test_separation_without_length_passes_by_a_layer_that_only_counts_tokens():
    """Layer 0 follows the difference of lengths, which tells all pairs apart; layer 1 knows a little of the sides."""
    generator = torch.Generator().manual_seed(0)
    longer = torch.randint(-40, -10, (200,), generator=generator).float()
    noise = torch.randn(200, 2, generator=generator)
    projections = torch.stack([-longer / 5, torch.full((200,), 0.8)], dim=1) + noise * torch.tensor([0.1, 1.0])
    assert separation(projections).argmax() == 0
    found = length_free_separation(projections, longer)
    assert found.argmax() == 1 and abs(found[0]) < 1
    slope, intercept = np.polyfit(longer.numpy(), projections[:, 1].numpy(), 1)
    left = projections[:, 1].numpy() - slope * longer.numpy() - intercept
    assert found[1].item() == pytest.approx(intercept / (np.sqrt((left**2).sum() / 198)), rel=1e-5)
    torch.testing.assert_close(length_free_separation(projections, torch.full((200,), 3.0)), separation(projections))


# ---- bins -----------------------------------------------------------------------------------------------------------

margins_arrays = arrays(np.float64, st.integers(30, 80), elements=st.floats(-50, 50), unique=True)
methods = st.sampled_from(["eqfreq", "eqwidth", "kmeans", "quartile", "none"])


@settings(deadline=None)  # the first k-means imports scikit-learn
@given(margins_arrays, methods, st.integers(2, 10))
def test_a_larger_margin_never_gets_a_smaller_level(margins, method, bins):
    """Invariant 5."""
    binned = fit_binning(margins, method, bins, -1.0, 2.0, "bin")(np.sort(margins))
    assert (np.diff(binned) >= 0).all()
    if method != "none":
        assert set(binned) <= set(np.linspace(-1.0, 2.0, 6 if method == "quartile" else bins))


@given(margins_arrays, st.integers(2, 10))
def test_equal_frequency_bins_differ_by_one_pair_at_most(margins, bins):
    """Invariant 5."""
    counts = np.bincount(fit_binning(margins, "eqfreq", bins, 0.0, 1.0, "bin").bin_of(margins), minlength=bins)
    assert counts.max() - counts.min() <= 1


def test_edges_are_fitted_once_and_reused():
    """Invariant 5: margins that were not there when the edges were fitted fall where the edges say."""
    binning = fit_binning(np.arange(8.0), "eqfreq", 4, 0.0, 3.0, "bin")
    assert binning.edges == (1.5, 3.5, 5.5)
    assert binning(np.array([-9.0, 1.4, 1.6, 3.4, 5.6, 99.0])).tolist() == [0, 0, 1, 1, 3, 3]


def test_methods_by_hand():
    margins = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 10.0])
    assert fit_binning(margins, "eqwidth", 5, 0.0, 1.0, "bin").edges == (2.0, 4.0, 6.0, 8.0)
    assert fit_binning(margins, "kmeans", 2, 0.0, 1.0, "bin").edges == (6.0,)  # centres 2 and 10
    quartiles = fit_binning(margins, "quartile", 4, 0.0, 5.0, "bin")  # 1.25, 2.5, 3.75; whiskers 1.5 * 2.5 beyond
    np.testing.assert_allclose(quartiles.edges, (-2.5, 1.25, 2.5, 3.75, 7.5))
    assert quartiles(np.array([10.0])).tolist() == [5.0]
    line = fit_binning(np.arange(101.0), "none", 4, -1.0, 2.0, "bin")  # 5 -> -1, 95 -> 2
    np.testing.assert_allclose(line(np.array([5.0, 50.0, 95.0, 110.0])), [-1.0, 0.5, 2.0, 2.5])


def test_treatment_of_negative_margins():
    margins = np.array([-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0])
    levels = {n: fit_binning(margins, "eqfreq", 2, 0.0, 1.0, n)(margins).tolist() for n in ("bin", "keep", "abs")}
    assert levels["bin"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert levels["abs"] == [1, 1, 0, 0, 0, 0, 1, 1]
    assert levels["keep"] == [-1, -1, 0, 0, 0, 0, 1, 1]
    clipped = fit_binning(margins, "eqwidth", 3, 0.0, 2.0, "clip")
    assert clipped.edges == (2.0, 3.0) and clipped(margins).tolist() == [0, 0, 0, 0, 0, 0, 1, 2]


MOSTLY_NEGATIVE = np.array([*-np.arange(1.0, 78.0), *np.arange(1.0, 24.0)])  # 77% of 100


@pytest.mark.parametrize("method", ["eqfreq", "eqwidth", "kmeans", "quartile", "none"])
def test_clipped_margins_get_the_lowest_level_however_many_they_are(method):
    """Label and direction disagree: such a pair must not be asked for a large gap."""
    binned = fit_binning(MOSTLY_NEGATIVE, method, 4, 0.0, 3.0, "clip")(MOSTLY_NEGATIVE)
    assert set(binned[:77]) == {0.0} and binned[-1] >= 3.0 * (method != "quartile")
    assert (np.diff(binned) >= 0).all() and len(set(binned[77:])) > 2
    if method == "eqfreq":  # of those above 0, as ever
        assert np.bincount(binned[77:].astype(int)).tolist() == [6, 6, 5, 6]


def test_continuous_clipped_margins_by_hand():
    margins = np.array([-5.0, -1.0, *np.arange(1.0, 22.0)])  # the 95th percentile of 1 to 21 is 20
    line = fit_binning(margins, "none", 4, -1.0, 1.0, "clip")
    np.testing.assert_allclose(line(np.array([-9.0, 0.0, 10.0, 20.0, 40.0])), [-1.0, -1.0, 0.0, 1.0, 3.0])


def test_equal_margins_share_the_lowest_bin():
    """Distances of pairs whose answers are alike are 0: however many they are, they ask for no gap."""
    margins = np.array([0.0] * 6 + [1.0, 2.0, 3.0, 4.0])
    assert fit_binning(margins, "eqfreq", 5, 0.0, 4.0, "bin")(margins).tolist() == [0] * 6 + [3, 3, 4, 4]


@pytest.mark.parametrize("method", ["eqfreq", "quartile", "none"])
def test_margins_that_are_nearly_all_equal_are_refused(method):
    margins = np.array([0.0] + [5.0] * 99)
    with pytest.raises(UserError, match="the 100 are nearly all equal"):
        fit_binning(margins, method, 4, 0.0, 1.0, "bin")


def test_margins_of_which_none_is_above_0_cannot_be_clipped():
    with pytest.raises(UserError, match=r"the 1 of 4 that are above 0 can't fill 2 bins"):
        fit_binning(np.array([-3.0, -2.0, -1.0, 1.0]), "eqfreq", 2, 0.0, 1.0, "clip")


def test_neighbours_without_a_number_between_them_fall_into_two_bins():
    tiny = np.array([0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)])
    assert fit_binning(tiny, "eqfreq", 4, 0.0, 3.0, "bin")(tiny).tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("margins", [np.ones(20), np.array([1.0, 2.0])])
def test_margins_that_make_no_bins_are_refused(margins):
    with pytest.raises(UserError, match="margins of the training pairs"):
        fit_binning(margins, "eqfreq", 4, 0.0, 1.0, "bin")


# ---- what Legend's margins must beat ---------------------------------------------------------------------------------


def test_margins_that_legend_must_beat_by_hand():
    margins = np.array([-2.0, 0.0, 1.0, 4.0, 0.0, 1.0])
    np.testing.assert_array_equal(compared_margins("legend", margins, 0), margins)
    np.testing.assert_array_equal(compared_margins("constant", margins, 0), [2.0, 0, 2.0, 2.0, 0, 2.0])  # (2+1+4+1)/4
    for kind in ("constant", "random"):
        assert not compared_margins(kind, np.zeros(3), 0).any(), "where no pair has one"


def test_random_margins_lie_evenly_between_the_smallest_and_the_largest_whatever_the_pair_is():
    margins = np.where(np.arange(4000) % 4 == 0, 0.0, np.linspace(-2, 2, 4000) ** 3 / 4 + 1)
    drawn, again, other = (compared_margins("random", margins, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(drawn, again)
    np.testing.assert_array_equal(drawn == 0, margins == 0)
    inside, before = drawn[margins != 0], margins[margins != 0]
    np.testing.assert_allclose(np.quantile(inside, [0.25, 0.5, 0.75]), [0.0, 1.0, 2.0], atol=0.1)
    assert before.min() <= inside.min() and inside.max() <= before.max() and (drawn != other).mean() > 0.7
    assert abs(np.corrcoef(inside, before)[0, 1]) < 0.05


def test_controls_may_have_fewer_seeds():
    kinds = ["none", "random", "legend", "shuffled"]
    assert len(kinds_by_seed(kinds, [3, 4], None)) == 8
    of_seed_4 = [kind for kind, seed in kinds_by_seed(kinds, [3, 4], 1) if seed == 4]
    assert of_seed_4 == ["none", "legend"] and len(kinds_by_seed(kinds, [3, 4], 1)) == 6


@given(arrays(np.float64, 40, elements=st.floats(-5, 5)), st.integers(0, 5))
def test_shuffled_margins_are_the_same_values_of_other_pairs(margins, seed):
    shuffled = compared_margins("shuffled", margins, seed)
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(margins))
    np.testing.assert_array_equal(shuffled == 0, margins == 0)
    np.testing.assert_array_equal(shuffled, compared_margins("shuffled", margins, seed))


def test_another_seed_shuffles_otherwise():
    margins = np.arange(1.0, 101.0)
    drawn = [compared_margins("shuffled", margins, seed) for seed in (0, 1)]
    assert (drawn[0] != drawn[1]).mean() > 0.9 and (drawn[0] != margins).mean() > 0.9
