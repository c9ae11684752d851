"""Trains heads of all folds side by side, as long as the pairs that each wasn't trained on gain from it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.maths.confidence import calibrated_loss
from alignment.maths.hybrid import PARAMETERS, Head, JointTraining, gaps

STEPS = 100  # of training, at most
PATIENCE = 10  # steps without a lower loss on held-out pairs


@runtime_checkable
class Training(Protocol):
    """Trains a head per fold, on the other folds, and a last one on all pairs."""

    @property
    def heads(self) -> list[Head]: ...

    def heldout_gaps(self) -> Float[Tensor, " pair"]:
        """The gaps of all pairs, each by its fold's head."""

    @staticmethod
    def step(trainings: Sequence[Any]) -> None:
        """A step of each of several trainings of this kind, which share what they read."""


class FoldTraining:
    """A training on rows of its own for every head."""

    def __init__(
        self,
        x: Float[Tensor, "layer row rank"],
        folds: list[Tensor],
        heads: list[Head],
        margin: float,
        trained: Sequence[str] = PARAMETERS,
    ) -> None:
        self._folds, self._heldout_rows = folds, [only(x, fold) for fold in folds]
        rows = [*(without(x, fold) for fold in folds), x]
        self._trainings = [JointTraining(*each, margin, trained) for each in zip(rows, heads, strict=True)]

    @property
    def heads(self) -> list[Head]:
        return [training.head for training in self._trainings]

    def heldout_gaps(self) -> Float[Tensor, " pair"]:
        heads = self.heads
        heldout = heads[0].bias.new_empty(sum(map(len, self._folds)))
        for fold, rows, head in zip(self._folds, self._heldout_rows, heads, strict=False):
            heldout[fold] = gaps(rows, head)
        return heldout

    @staticmethod
    def step(trainings: "Sequence[FoldTraining]") -> None:
        for of_gate in trainings:
            for training in of_gate._trainings:
                training.step()


def stop_early(
    trainings: Sequence[Training], least: int = 0, done: Callable[[], object] = lambda: None
) -> list[tuple[list[Head], int, Float[Tensor, " pair"]]]:
    """Trains each as long as held-out pairs gain from it.

    Gaps also lower eq. 7 by growing; whether they order pairs better is judged by a loss that scale doesn't change.
    Returns the heads, the number of steps (`least` or more), and the gaps of all pairs, each by its fold's head.
    """
    best: list[tuple[list[Head], int, Tensor]] = [([], 0, torch.empty(0))] * len(trainings)
    lowest = [float("inf")] * len(trainings)
    running = list(range(len(trainings)))
    for step in range(STEPS + 1):
        for number in list(running):
            heldout = trainings[number].heldout_gaps()
            if step >= least and (loss := calibrated_loss(heldout)) < lowest[number]:
                best[number], lowest[number] = (trainings[number].heads, step, heldout), loss
            if step == min(max(best[number][1], least) + PATIENCE, STEPS):
                running.remove(number)
                done()
        if not running:
            break
        trainings[0].step([trainings[number] for number in running])
    return best


def only(x: Float[Tensor, "layer row rank"], pairs: Int[Tensor, " pair"]) -> Float[Tensor, "layer fewer rank"]:
    """The rows of some pairs."""
    return x[:, torch.cat([pairs, pairs + x.shape[1] // 2])]


def without(x: Float[Tensor, "layer row rank"], pairs: Int[Tensor, " pair"]) -> Float[Tensor, "layer fewer rank"]:
    """The rows of all other pairs."""
    kept = torch.ones(x.shape[1] // 2, dtype=torch.bool)
    kept[pairs] = False
    return only(x, kept.nonzero()[:, 0])
