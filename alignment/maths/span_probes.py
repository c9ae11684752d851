"""The SVMs of probes.py for states that have more dimensions than there are answers, from products of answers alone.

The weights lie in the span of the answers: w = x^T a, one number a_i for an answer, and all that is read of the states
are the products K = x x^T, in float32. Newton's method solves for the active answers alone, by a Cholesky factor in
float32; each step starts from what is left of the equations in float64, so that the factor's rounding leaves no trace.
A cost starts from the solution of the cost below.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEWTON_STEPS = 50  # measured: 2 to 5 are enough
HALVINGS = 20
LEFT = 1e-7  # of an equation's right side, which is 1: smaller than what float32 products can tell


def fit_span_probes(
    products: Float[Tensor, "row row"],
    labels: Float[Tensor, " row"],
    trained: Bool[Tensor, "fit row"],
    costs: Sequence[float],
) -> list[tuple[Float[Tensor, "fit row"], Float[Tensor, "fit row"]]]:
    """For each cost, which rise: a of every fit, 0 for answers it wasn't trained on, and its scores of all answers.

    The bias is the sum of a: it is a weight on a constant, as in probes.py.
    """
    exact = products.double().add_(1)
    a, scores = exact.new_zeros(trained.shape), exact.new_zeros(trained.shape)
    found = []
    for cost in costs:
        a, scores = _newton(products, exact, labels, trained, cost, a, scores)
        found.append((a, scores))
    return found


def _newton(
    products: Float[Tensor, "row row"],
    exact: Float[Tensor, "row row"],
    labels: Float[Tensor, " row"],
    trained: Bool[Tensor, "fit row"],
    cost: float,
    a: Float[Tensor, "fit row"],
    scores: Float[Tensor, "fit row"],
) -> tuple[Float[Tensor, "fit row"], Float[Tensor, "fit row"]]:
    """argmin |w|^2 / 2 + cost sum over trained answers of max(0, 1 - y f)^2, all fits in step.

    Where the same answers stay active, a step only removes what rounding left.
    """
    ridge = 1 / (2 * cost)
    a, scores = a.clone(), scores.clone()
    active = trained & (labels * scores < 1)
    factors: list[Tensor | None] = [None] * len(a)
    running = list(range(len(a)))
    for _ in range(NEWTON_STEPS):
        aims = torch.where(active, a, 0.0)
        left = torch.where(active, labels - _scores(exact, aims) - ridge * aims, 0.0)
        for fit in list(running):
            rows = active[fit].nonzero()[:, 0]
            if factors[fit] is None:
                system = products.index_select(0, rows).index_select(1, rows).add_(1)
                system.diagonal().add_(ridge)
                factors[fit] = torch.linalg.cholesky(system)
            change = torch.cholesky_solve(left[fit, rows].to(products.dtype)[:, None], factors[fit])[:, 0]
            aims[fit, rows] += change.double()
        aim_scores = _scores(exact, aims)
        for fit in list(running):
            step = _line_search(a[fit], aims[fit], scores[fit], aim_scores[fit], labels, trained[fit], cost)
            a[fit] += step * (aims[fit] - a[fit])
            scores[fit] += step * (aim_scores[fit] - scores[fit])
            now = trained[fit] & (labels * scores[fit] < 1)
            if not torch.equal(now, active[fit]):
                active[fit], factors[fit] = now, None
            elif step == 1 and float((now * (labels - scores[fit] - ridge * a[fit])).abs().max()) < LEFT:
                running.remove(fit)
                factors[fit] = None
        if not running:
            break
    return a, scores


def _scores(exact: Float[Tensor, "row row"], a: Float[Tensor, "fit row"]) -> Float[Tensor, "fit row"]:
    return (exact @ a.T).T.contiguous()


def _line_search(
    a: Float[Tensor, " row"],
    aim: Float[Tensor, " row"],
    scores: Float[Tensor, " row"],
    aim_scores: Float[Tensor, " row"],
    labels: Float[Tensor, " row"],
    trained: Bool[Tensor, " row"],
    cost: float,
) -> float:
    """How much of the step is taken: all of it, or halves of it until the objective doesn't rise."""

    def objective(step: float) -> float:
        at, scores_at = a + step * (aim - a), scores + step * (aim_scores - scores)
        lack = (trained * (1 - labels * scores_at)).clamp_min(0)
        return float(at @ scores_at / 2 + cost * lack.square().sum())  # |w|^2 = a K a

    start, step = objective(0.0), 1.0
    for _ in range(HALVINGS):
        if objective(step) <= start + 1e-10 * abs(start):
            break
        step /= 2
    return step
