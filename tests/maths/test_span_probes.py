"""Fits in the span of the answers against the same fits on the states themselves."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment import HybridReward
from alignment.maths.cross_fitting import COSTS, Fitted, Start, fit_gate, fit_gates, fit_span_start, fit_start
from alignment.maths.hybrid import GATES, JointTraining, first_head, gaps, layer_scores
from alignment.maths.layers import each_layer
from alignment.maths.probes import Probes, fit_probes, standard
from alignment.maths.span_probes import fit_span_probes
from alignment.maths.span_training import SpanTraining

LAYERS, PAIRS = 3, 30
LLAMA = Path(__file__).parents[3] / "shared" / "data" / "llama7b_activations.safetensors"
SIDES = torch.cat([torch.ones(PAIRS), -torch.ones(PAIRS)]).double()


def answers(width: int, strength: float = 1.0) -> torch.Tensor:
    """(layer, row, width), chosen rows first; the last layer but one says most about which is which."""
    x = torch.randn(LAYERS, 2 * PAIRS, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :, 0] += strength * torch.tensor([0.2, 1.5, 0.6]).double()[:, None] * SIDES
    return x / width**0.5


def products(x: torch.Tensor) -> torch.Tensor:
    return x.float() @ x.float().mT


def folds() -> torch.Tensor:
    """For each of three folds the pairs outside of it, and all pairs."""
    return torch.stack([torch.arange(PAIRS) % 3 != fold for fold in range(4)])


@pytest.mark.parametrize(("width", "strength"), [(200, 1.0), (12, 1.0), (200, 0.0), (12, 6.0)])
def test_each_fit_is_the_one_on_states(width, strength):
    """With more dimensions than answers and with fewer, on noise, and where few answers stay active."""
    x = answers(width, strength)[1]
    trained = folds().repeat(1, 2)
    for cost, (a, scores) in zip(COSTS, fit_span_probes(products(x), SIDES, trained, COSTS), strict=True):
        for fit, rows in enumerate(trained):
            probe = fit_probes(x[rows][None], SIDES[rows], cost)
            torch.testing.assert_close(x.T @ a[fit], probe.weight[0], rtol=1e-4, atol=2e-5)
            assert float(a[fit].sum()) == pytest.approx(float(probe.bias), abs=2e-5) and not a[fit][~rows].any()
            torch.testing.assert_close(scores[fit], x @ probe.weight[0] + probe.bias, rtol=1e-4, atol=2e-5)


def test_rounding_of_the_factor_leaves_no_trace():
    """The equations of the active answers hold far below float32's rounding: a = 2 cost (y - f)."""
    x = products(answers(200)[1])
    every = torch.ones(1, 2 * PAIRS, dtype=torch.bool)
    for cost, (a, scores) in zip(COSTS, fit_span_probes(x, SIDES, every, COSTS), strict=True):
        lack = (1 - SIDES * scores).clamp_min(0)
        torch.testing.assert_close(a / (2 * cost), SIDES * lack, rtol=0, atol=1e-7)
        torch.testing.assert_close(scores, a @ (x.double() + 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("gate", GATES)
def test_training_is_the_one_on_states(gate):
    x, trained = answers(100), folds()
    fits = [
        [fit_span_probes(products(layer), SIDES, one.repeat(2)[None], [0.5])[0][0][0] for layer in x] for one in trained
    ]
    heads = []
    for fit in fits:
        weight = torch.stack(fit)
        head = first_head(Probes(weight, weight.sum(dim=1)), gate, 1)
        heads.append(head if head.vote is None else head._replace(vote=head.vote + torch.linspace(-1, 1, LAYERS)))
    in_span = SpanTraining(products(x), trained, heads, 1.0)
    lifted = [head._replace(weight=torch.einsum("lrw,lr->lw", x, head.weight)) for head in heads]
    rows = [one.repeat(2) for one in trained]
    on_states = [JointTraining(x[:, of], head, 1.0) for of, head in zip(rows, lifted, strict=True)]
    for _ in range(15):
        in_span.step([in_span])
        for training in on_states:
            training.step()
    for found, training, started in zip(in_span.heads, on_states, heads, strict=True):
        weight = torch.einsum("lrw,lr->lw", x, found.weight)
        torch.testing.assert_close(weight, training.head.weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.bias, training.head.bias, rtol=1e-4, atol=1e-5)
        if found.vote is not None:
            torch.testing.assert_close(found.vote, training.head.vote, rtol=1e-4, atol=1e-5)
        assert not torch.equal(found.weight, started.weight)
    for fold in range(3):  # the last head was trained on all pairs
        heldout = ~trained[fold]
        expected = gaps(x[:, heldout.repeat(2)], on_states[fold].head)
        torch.testing.assert_close(in_span.heldout_gaps()[heldout], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", ["sigmoid_scores", "static_softmax", "best_layer"])
def test_every_choice_is_the_one_on_states(gate):
    x = answers(100)
    found, expected = in_span(x, gate), fit_gate(fit_start(x, torch.Generator().manual_seed(0)), gate, 1.0)
    assert (found.cost, found.head.layer) == (expected.cost, expected.head.layer)
    torch.testing.assert_close(found.heldout_gaps, expected.heldout_gaps, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.heldout_confidences, expected.heldout_confidences, rtol=1e-3, atol=1e-4)
    scores = layer_scores(products(x).double(), found.head.weight, found.head.bias)
    torch.testing.assert_close(scores, layer_scores(x, *expected.head[:2]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [100, 12])
def test_gates_that_are_fitted_together_are_those_fitted_alone(width):
    """Each stops in its own time, whatever the others do; with 12 dimensions to the last bit."""
    x, finished = answers(width), []
    start = span_start(x) if width == 100 else fit_start(x, torch.Generator().manual_seed(0))
    gates = ("sigmoid_scores", "static_softmax", "best_layer")
    together = fit_gates(start, gates, 1.0, lambda: finished.append(1))
    assert tuple(together) == gates and len(finished) == 3
    for gate, fitted in together.items():
        alone = fit_gate(start, gate, 1.0)
        assert (fitted.steps, fitted.cost, fitted.head.layer) == (alone.steps, alone.cost, alone.head.layer)
        close = {"rtol": 1e-4, "atol": 1e-5} if width == 100 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(fitted.heldout_gaps, alone.heldout_gaps, **close)
        torch.testing.assert_close(fitted.head.weight, alone.head.weight, **close)


def test_layers_side_by_side_give_the_same_bits():
    x = answers(100)
    one, two = in_span(x, "sigmoid_scores", 1), in_span(x, "sigmoid_scores", 2)
    assert torch.equal(one.head.weight, two.head.weight) and torch.equal(one.heldout_gaps, two.heldout_gaps)


def test_layers_come_in_order_each_on_one_core():
    before, threads = torch.get_num_threads(), set()

    def compute(layer: int) -> int:
        threads.add((threading.get_ident(), torch.get_num_threads()))
        return 10 * layer

    assert each_layer(compute, 5, 2) == [0, 10, 20, 30, 40] == each_layer(lambda layer: 10 * layer, 5, 1)
    assert threading.get_ident() not in dict(threads) and set(dict(threads).values()) == {1}
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        each_layer(lambda layer: 1 // (layer - 2), 5, 2)


@pytest.mark.skipif(not LLAMA.exists(), reason=f"needs {LLAMA.name} in ../shared/data")
def test_real_pairs_are_ranked_as_by_a_fit_on_states():
    """Two layers of Llama 7B, a fit on 120 pairs, against float64 in a basis of the span of the states."""
    states = load_file(LLAMA)
    chosen, rejected = (states[side][:, [20, 32]] for side in ("safe", "unsafe"))
    test = torch.arange(150) % 5 == 0
    found = HybridReward.fit(chosen[~test], rejected[~test], gate="static_softmax")
    rows, x = torch.cat([chosen[~test], rejected[~test]]).double(), []
    for layer in range(2):
        mean, scale = standard(rows[:, layer], "a layer")
        z = (rows[:, layer] - mean) / scale / 64
        values, vectors = torch.linalg.eigh(z @ z.T)
        x.append(vectors * values.clamp_min(0).sqrt())
    expected = fit_gate(fit_start(torch.stack(x), torch.Generator().manual_seed(0)), "static_softmax", 1.0)
    assert found.meaning["cost"] == f"{expected.cost:g}"
    held_out = found.cross_fitted.gaps
    assert float(((held_out > 0) == (expected.heldout_gaps > 0)).double().mean()) > 0.995
    assert float(torch.corrcoef(torch.stack([held_out, expected.heldout_gaps]))[0, 1]) > 1 - 1e-6
    assert float((found.score(chosen[test]) > found.score(rejected[test])).double().mean()) > 0.7


def in_span(x: torch.Tensor, gate: str, workers: int = 1) -> Fitted:
    return fit_gate(span_start(x, workers), gate, 1.0)


def span_start(x: torch.Tensor, workers: int = 1) -> Start:
    empty = torch.empty(LAYERS, 2 * PAIRS, 2 * PAIRS)
    return fit_span_start(lambda layer: products(x[layer]), empty, torch.Generator().manual_seed(0), workers)
