"""The batched SVMs against scikit-learn's, in both of their forms, and what standardising does with constants."""

import pytest
import torch
from sklearn.svm import LinearSVC

from alignment.maths.probes import fit_probes, standard
from alignment.types import UserError


def data(layers: int, rows: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(layers, rows, width, generator=generator, dtype=torch.float64)
    labels = torch.cat([torch.ones(rows // 2), -torch.ones(rows - rows // 2)]).double()
    shift = torch.linspace(0, 1, layers, dtype=torch.float64)[:, None, None]
    x[:, :, :3] += shift * labels[:, None]
    return x / width**0.5, labels


@pytest.mark.parametrize(("rows", "width"), [(40, 100), (120, 10), (30, 31)])
@pytest.mark.parametrize("cost", [0.01, 1.0, 100.0])
def test_each_layer_is_scikit_learns_svm(rows, width, cost):
    x, labels = data(3, rows, width)
    probes = fit_probes(x, labels, cost)
    for layer in range(3):
        theirs = LinearSVC(C=cost, loss="squared_hinge", dual=False, tol=1e-10, max_iter=100000)
        theirs.fit(x[layer].numpy(), labels.numpy())
        torch.testing.assert_close(probes.weight[layer], torch.from_numpy(theirs.coef_[0]), rtol=1e-4, atol=1e-5)
        assert float(probes.bias[layer]) == pytest.approx(theirs.intercept_[0], rel=1e-4, abs=1e-5)


def test_the_solution_has_no_slope():
    """Exact, not only near: the gradient of the objective vanishes."""
    x, labels = data(2, 50, 80)
    probes = fit_probes(x, labels, cost=7.0)
    lack = (1 - labels * ((x @ probes.weight[:, :, None])[:, :, 0] + probes.bias[:, None])).clamp_min(0)
    slope = probes.weight - 14.0 * ((lack * labels)[:, None] @ x)[:, 0]
    assert float(slope.abs().max()) < 1e-9 and float((probes.bias - 14.0 * (lack * labels).sum(1)).abs().max()) < 1e-9


def test_standardising_leaves_constants_alone_and_refuses_a_constant_layer():
    states = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1, 2, 3, 4.0])
    states[:, 2] = 0.1
    mean, scale = standard(states, "layer 1")
    torch.testing.assert_close(mean, states.mean(dim=0))
    torch.testing.assert_close(scale[[0, 1, 3]], states.std(dim=0, correction=0)[[0, 1, 3]])
    assert scale[2] == 1
    with pytest.raises(UserError, match="layer 7: it is the same for all answers"):
        standard(torch.full((50, 4), 0.1, dtype=torch.float64), "layer 7")
