"""Joint training (hybrid.py) on rows that lie in memory once, for the heads of all folds and gates.

As span_training.py, with x in the place of its products: what a step moves the scores by is x times a step of the
weights, and the slope of the weights is x^T times that of the scores. Both read x once for all heads.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.maths.layers import each_layer
from alignment.maths.span_training import SpanTraining


class RowTraining(SpanTraining):
    """Trains a head for each row of `trained`; products: x of every layer, (layer, row, rank), chosen first."""

    @staticmethod
    def _bring_to_weights(trainings: Sequence[SpanTraining], slopes: list[list[dict[str, Tensor]]]) -> None:
        x, workers = trainings[0]._products, trainings[0]._workers
        every = [of_head for of_heads in slopes for of_head in of_heads]

        def weights(layer: int) -> Float[Tensor, "rank head"]:
            return x[layer].T @ torch.stack([of_head["weight"][layer] for of_head in every], dim=1)

        found = torch.stack(each_layer(weights, len(x), workers))
        for number, of_head in enumerate(every):
            of_head["weight"] = found[:, :, number]

    def _squares(self, pairs: int) -> tuple[Float[Tensor, "row layer"], Float[Tensor, "pair layer"]]:
        square = torch.stack([rows.square().sum(dim=1) for rows in self._products], dim=1) + 1
        across = [(rows[:pairs] * rows[pairs:]).sum(dim=1) for rows in self._products]
        return square, torch.stack(across, dim=1) + 1
