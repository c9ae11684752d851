"""Gates by hand, their invariants, and joint training against plain autograd."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from alignment.maths.confidence import calibrated_loss, fit_temperature
from alignment.maths.cross_fitting import COSTS, choose, fit_gate, fit_start
from alignment.maths.hybrid import (
    GATES,
    Head,
    JointTraining,
    first_head,
    gaps,
    gate_weights,
    hybrid_score,
    layer_scores,
    rescaled,
    reward,
    vote_shape,
    vote_slopes,
)
from alignment.maths.probes import Probes, fit_probes

LAYERS = 4


def answers(pairs: int = 40, width: int = 12, seed: int = 0, strength: float = 1.0) -> torch.Tensor:
    """(layer, row, width), chosen rows first; the last layer but one says most about which is which."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(LAYERS, 2 * pairs, width, generator=generator, dtype=torch.float64)
    side = torch.cat([torch.ones(pairs), -torch.ones(pairs)]).double()
    x[:, :, 0] += strength * torch.tensor([0.0, 0.3, 1.2, 0.5]).double()[:, None] * side
    return x / width**0.5


def a_head(x: torch.Tensor, gate: str, seed: int = 0) -> Head:
    """Random probes and, where the gate has one, a random vote."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(len(x), x.shape[2], generator=generator, dtype=torch.float64)
    bias, shape = torch.randn(len(x), generator=generator, dtype=torch.float64), vote_shape(gate, len(x))
    vote = None if shape is None else torch.randn(*shape, generator=generator, dtype=torch.float64)
    return Head(weight, bias, vote, gate, 1 if gate == "best_layer" else None)


def test_gates_by_hand():
    s = torch.tensor([[1.0, -2.0]]).double()
    vote = torch.tensor([[0.5, 1.0], [0.0, -1.0]]).double()
    votes = torch.tensor([[0.5 * 1 - 2, 2.0]]).double()
    torch.testing.assert_close(gate_weights(s, "sigmoid_scores", vote), 1 / (1 + (-votes).exp()))
    torch.testing.assert_close(gate_weights(s, "softmax_scores", vote), votes.exp() / votes.exp().sum())
    static = torch.tensor([0.0, 1.0]).double()
    torch.testing.assert_close(gate_weights(s, "static_softmax", static)[0], static.exp() / static.exp().sum())
    assert gate_weights(s, "uniform", None).tolist() == [[0.5, 0.5]]
    assert gate_weights(s, "last_layer", None).tolist() == [[0, 1]]
    assert gate_weights(s, "best_layer", None, 0).tolist() == [[1, 0]]
    assert float(hybrid_score(s, gate_weights(s, "uniform", None))) == -0.5


@pytest.mark.parametrize("gate", GATES)
def test_weights_follow_the_input_where_they_should(gate):
    """Invariant 5: only gates on scores do, and only a softmax's weights always add up to 1 (as do fixed ones)."""
    x = answers()
    head = a_head(x, gate)
    weights = gate_weights(layer_scores(x, head.weight, head.bias), gate, head.vote, head.layer)
    assert (float(weights.std(dim=0).max()) > 0.01) == (gate in ("sigmoid_scores", "softmax_scores"))
    sums = weights.sum(dim=1)
    assert torch.allclose(sums, torch.ones_like(sums)) == (gate != "sigmoid_scores")


@pytest.mark.parametrize("gate", ["sigmoid_scores", "softmax_scores", "static_softmax", "uniform"])
def test_every_probe_receives_gradient(gate):
    """Invariant 6, at the start and anywhere."""
    x = answers()
    for head in (a_head(x, gate), first_head(fit_probes(x, _labels(x), 1.0), gate)):
        weight = head.weight.clone().requires_grad_()
        (-logsigmoid(gaps(x, head._replace(weight=weight)) - 1)).mean().backward()
        assert (weight.grad.norm(dim=1) > 1e-8).all()


@pytest.mark.parametrize("gate", GATES)
def test_training_starts_from_the_mean_of_the_probes_or_the_picked_one(gate):
    x = answers()
    probes = fit_probes(x, _labels(x), 1.0)
    scores = layer_scores(x, *probes)
    expected = {"last_layer": scores[:, -1], "best_layer": scores[:, 1]}.get(gate, scores.mean(dim=1))
    torch.testing.assert_close(reward(x, first_head(probes, gate, 1)), expected)


@pytest.mark.parametrize("gate", GATES)
def test_rescaling_is_exact(gate):
    x = answers()
    head = a_head(x, gate)
    torch.testing.assert_close(reward(x, rescaled(head, 3.7)), 3.7 * reward(x, head))


@pytest.mark.parametrize("gate", ["sigmoid_scores", "softmax_scores", "static_softmax"])
def test_slopes_of_the_vote_are_autograds(gate):
    x = answers(pairs=3)
    head = a_head(x, gate)
    scores = layer_scores(x, head.weight, head.bias)
    found = vote_slopes(scores, gate_weights(scores, gate, head.vote), gate)
    vote = head.vote.clone().requires_grad_()
    for row, slope in zip(scores, found, strict=True):
        score = hybrid_score(row[None], gate_weights(row[None], gate, vote))
        torch.testing.assert_close(slope.view_as(vote), torch.autograd.grad(score.sum(), vote)[0])


@pytest.mark.parametrize("gate", GATES)
def test_joint_training_lowers_the_loss_and_moves_what_it_should(gate):
    x = answers()
    first = first_head(fit_probes(x, _labels(x), 1.0), gate, 1)
    training = JointTraining(x, first, margin=1.0)
    before = -logsigmoid(gaps(x, first) - 1).mean()
    for _ in range(20):
        training.step()
    head = training.head
    assert -logsigmoid(gaps(x, head) - 1).mean() < 0.95 * before
    moved = (head.weight - first.weight).norm(dim=1) > 0
    expected = {"last_layer": [False] * 3 + [True], "best_layer": [False, True, False, False]}
    assert moved.tolist() == expected.get(gate, [True] * LAYERS)
    if first.vote is not None:
        assert (head.vote != first.vote).all()


@pytest.mark.parametrize("gate", ["sigmoid_scores", "static_softmax"])
def test_joint_training_does_not_depend_on_the_basis(gate):
    x = answers()
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()).Q
    probes = fit_probes(x, _labels(x), 1.0)
    one = JointTraining(x, first_head(probes, gate), 1.0)
    other = JointTraining(x @ turn, first_head(Probes(probes.weight @ turn, probes.bias), gate), 1.0)
    for _ in range(10):
        one.step(), other.step()
    torch.testing.assert_close(reward(x @ turn, other.head), reward(x, one.head))


def test_rewards_do_not_drift_away_from_zero():
    """Eq. 7 knows gaps alone; what is asked of the biases must not push both answers to one side."""
    x = answers(strength=0.3)
    for gate in GATES:
        head = fit_gate(fit_start(x, torch.Generator().manual_seed(0)), gate, 1.0).head
        found = reward(x, head)
        assert float(found.mean().abs()) < float(found.std()) / 2, gate


# ---- choices on held-out pairs --------------------------------------------------------------------------------------


def test_the_best_layer_is_the_planted_one():
    best, layer = choose(fit_start(answers(pairs=100), torch.Generator().manual_seed(0)), "best_layer")
    assert layer == 2 and best.cost in COSTS


def test_costs_are_chosen_for_what_the_gate_starts_from():
    """The last layer alone has its own cost, the one at which it is surest of held-out pairs."""
    start = fit_start(answers(pairs=60, width=100, strength=2.0), torch.Generator().manual_seed(0))
    for gate, gaps_of in (("last_layer", lambda one: one.gaps[:, -1]), ("uniform", lambda one: one.gaps.mean(dim=1))):
        losses = {one.cost: calibrated_loss(gaps_of(one)) for one in start.candidates}
        assert choose(start, gate)[0].cost == min(losses, key=losses.get) == fit_gate(start, gate, 1.0).cost


def test_held_out_scores_are_held_out():
    """On noise, probes fitted on a pair order it right (more dimensions than answers); held out, they can't."""
    x = answers(pairs=100, width=300, strength=0.0)
    start = fit_start(x, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(start.folds).tolist()) == list(range(100))
    fitted = fit_gate(start, "uniform", 1.0)
    assert float((gaps(x, fitted.head) > 0).double().mean()) > 0.95
    assert 0.35 < float((fitted.heldout_gaps > 0).double().mean()) < 0.65
    for candidate in start.candidates:
        for fold, probes in zip(start.folds, candidate.fold_probes, strict=True):
            rows = x[:, torch.cat([fold, fold + 100])]
            torch.testing.assert_close(candidate.scores[:, fold].flatten(0, 1), layer_scores(rows, *probes))


def test_held_out_pairs_set_scale_and_alpha():
    """At the best scale for eq. 7, and the best alpha for log gamma, neither slope is left."""
    start = fit_start(answers(pairs=100), torch.Generator().manual_seed(0))
    fitted = fit_gate(start, "uniform", 1.0)
    for fold in start.folds:
        others = sorted(set(range(len(fitted.heldout_gaps))) - set(fold.tolist()))
        without = fit_temperature(fitted.heldout_gaps[others]).alpha
        assert torch.equal(fitted.heldout_confidences[fold], torch.sigmoid(without * fitted.heldout_gaps[fold]))
    apart, alpha = fitted.heldout_gaps, fitted.temperature.alpha
    assert abs(float((apart * torch.sigmoid(1 - apart)).mean())) < 1e-9
    assert abs(float((apart * torch.sigmoid(-alpha * apart)).mean())) < 1e-9


@pytest.mark.parametrize("gate", ["sigmoid_scores", "softmax_scores", "static_softmax"])
def test_a_gate_is_trained_even_where_training_gains_nothing(gate):
    """Invariant 5 for a fitted reward: V is never left at 0."""
    x = answers(pairs=60, strength=0.0)
    assert fit_gate(fit_start(x, torch.Generator().manual_seed(0)), gate, 1.0).head.vote.abs().min() > 0


def _labels(x: torch.Tensor) -> torch.Tensor:
    half = torch.ones(x.shape[1] // 2, dtype=torch.float64)
    return torch.cat([half, -half])
