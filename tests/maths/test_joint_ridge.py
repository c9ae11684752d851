"""The ridge over layers: what it solves, both ways it is solved, and which penalty it takes."""

import pytest
import torch

from alignment.maths.joint_ridge import PENALTIES, fit_ridge


def planted(pairs: int, layers: int, width: int, strength: float = 1.0):
    """States in which one direction of the last layer tells the sides apart."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(pairs, layers, width, generator=generator) for _ in range(2))
    chosen[:, -1, 0] += strength
    return chosen, rejected, torch.arange(pairs) % 5


def test_it_is_the_ridge_that_scikit_learn_fits():
    from sklearn.linear_model import Ridge

    chosen, rejected, inner = planted(40, 3, 6)
    for pairs in (40, 12):  # more pairs than the 18 dimensions, and fewer
        found = fit_ridge(chosen[:pairs], rejected[:pairs], inner[:pairs], [0.5])
        both = torch.cat([chosen[:pairs], rejected[:pairs]]).double()
        scale = both.std(dim=0, correction=0) * 6**0.5
        x = ((chosen.double() - rejected.double())[:pairs] / scale).flatten(1)
        unit = float(x.square().sum(dim=1).mean())
        reference = Ridge(alpha=0.5 * unit, fit_intercept=False).fit(x.numpy(), torch.ones(pairs).numpy())
        expected = torch.from_numpy(reference.coef_).view(3, 6) / scale
        torch.testing.assert_close(found.weight, expected, rtol=1e-8, atol=1e-10)
        assert float(found.score(both.float()).mean()) == pytest.approx(0, abs=1e-6)


def test_held_out_gaps_are_the_same_by_pairs_and_by_dimensions():
    from alignment.maths.joint_ridge import _heldout_by_dimensions, _heldout_by_products

    chosen, rejected, inner = planted(30, 1, 8)
    x = (chosen - rejected)[:, 0].double()
    for number, gaps in enumerate(_heldout_by_dimensions(x, inner, PENALTIES)):
        torch.testing.assert_close(gaps, _heldout_by_products(x @ x.T, inner, PENALTIES[number]))


def test_it_finds_what_is_planted_and_nothing_in_noise():
    chosen, rejected, inner = planted(200, 3, 40, strength=3.0)
    found = fit_ridge(chosen[:150], rejected[:150], inner[:150])
    right = found.score(chosen[150:]) > found.score(rejected[150:])
    assert right.double().mean() > 0.8 and found.heldout_loss < 0.5
    assert found.weight[-1, 0] == found.weight.abs().max()
    noise = fit_ridge(*planted(150, 3, 40, strength=0.0))
    assert noise.heldout_loss > 0.66
