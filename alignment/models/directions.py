"""Which direction margins are read along: of one kind or another, at one layer or another, by what induced pairs say.

Candidates are made from the states of induced pairs. Each is tried on pairs that it wasn't made from (held-out folds),
and the one that separates them best is taken; or, where a few labelled pairs are given, the one that separates those.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment.maths.direction import StandardMarginVector, length_free_separation, separation, unit
from alignment.maths.discriminant import SHRINKAGES, discriminants, heldout_projections
from alignment.types import DirectionKind, StageFailed

DRAWN = ("smv", "discriminant")  # the kinds that are made of induced pairs
HALVINGS = 20  # how often the questions are halved, for the agreement of directions from either half


@dataclass(frozen=True)
class Direction:
    """A direction at one layer. The kinds "distance" and "cosine" compare states without one: they have no vector."""

    kind: DirectionKind
    layer: int
    vector: Tensor | None = None
    separation_by_layer: dict[int, float] | None = None  # of held-out induced pairs, at the layers that were compared
    shrinkage: float | None = None  # of a discriminant


@dataclass(frozen=True)
class SideStates:
    """(pair, layer, width) float32 states of the two answers of pairs, at these layers, on the host.

    longer: by how many tokens the positive answer is. batches: in which pairs were read, whose order float sums keep.
    """

    layers: list[int]
    positive: Tensor
    negative: Tensor
    longer: Tensor
    batches: list[list[int]]

    def at(self, layers: list[int]) -> "SideStates":
        """The states at some of the layers."""
        if layers == self.layers:
            return self
        places = [self.layers.index(layer) for layer in layers]
        return replace(self, layers=layers, positive=self.positive[:, places], negative=self.negative[:, places])


@dataclass(frozen=True)
class _Candidate:
    direction: Direction
    separation: float


def best_direction(kind: DirectionKind, states: SideStates, at_equal_length: bool) -> Direction:
    """The direction of a kind at the layer, with the shrinkage, that separates held-out induced pairs best."""
    found = _candidates(kind, states, at_equal_length)
    by_layer: dict[int, float] = {}
    for one in found:
        layer = one.direction.layer
        by_layer[layer] = max(by_layer.get(layer, one.separation), one.separation)
    best = max(found, key=lambda one: one.separation)
    return replace(best.direction, separation_by_layer=by_layer)


def direction_by_labels(states: SideStates, labelled: SideStates, at_equal_length: bool) -> Direction:
    """The kind, layer and shrinkage whose direction separates labelled pairs best; among equals, induced ones."""
    found = [one for kind in DRAWN for one in _candidates(kind, states, at_equal_length)]

    def separations(one: _Candidate) -> tuple[float, float]:
        at = labelled.layers.index(one.direction.layer)
        differences = (labelled.positive[:, at] - labelled.negative[:, at]).double()
        return separation(differences @ unit(one.direction.vector.double())[:, None]).item(), one.separation

    return max(found, key=separations).direction


def agreement_of_halves(direction: Direction, states: SideStates, seed: int) -> list[float] | None:
    """The cosine of directions from either half of the induced pairs, for each of several halvings; None without one.

    Kind, layer and shrinkage are the direction's own.
    """
    if direction.kind not in DRAWN:
        return None
    at = states.layers.index(direction.layer)
    positive, negative = states.positive[:, at], states.negative[:, at]
    generator = torch.Generator().manual_seed(seed)
    cosines = []
    for _ in range(HALVINGS):
        halves = torch.randperm(len(positive), generator=generator).chunk(2)
        one, other = (_vector(direction, positive[half], negative[half]) for half in halves)
        cosines.append(torch.cosine_similarity(one, other, dim=0).item())
    return cosines


def _vector(direction: Direction, positive: Tensor, negative: Tensor) -> Tensor:
    if direction.kind == "smv":
        return (positive - negative).double().mean(dim=0)
    return discriminants(positive, negative, [direction.shrinkage])[0]


def _candidates(kind: DirectionKind, states: SideStates, at_equal_length: bool) -> list[_Candidate]:
    def separate(projections: Tensor, order: list[int]) -> list[float]:
        if at_equal_length:
            return length_free_separation(projections, states.longer[order]).tolist()
        return separation(projections).tolist()

    return (_standard_margin_vectors if kind == "smv" else _discriminants)(states, separate)


Separate = Callable[[Tensor, list[int]], list[float]]  # of projections, and the pairs they are of


def _standard_margin_vectors(states: SideStates, separate: Separate) -> list[_Candidate]:
    layers, order = states.layers, [pair for batch in states.batches for pair in batch]
    smv = StandardMarginVector(len(layers), states.positive.shape[-1])
    for batch in states.batches:
        smv.add(states.positive[batch] - states.negative[batch], batch)
    tried = [
        smv.heldout_projections(states.positive[batch] - states.negative[batch], batch) for batch in states.batches
    ]
    vectors, separations = smv.vector.float(), separate(torch.cat(tried), order)
    _require(vectors.isfinite().all() and vectors.norm(dim=-1).all())
    directions = (Direction("smv", layer, vector) for layer, vector in zip(layers, vectors, strict=True))
    return [_Candidate(direction, found) for direction, found in zip(directions, separations, strict=True)]


def _discriminants(states: SideStates, separate: Separate) -> list[_Candidate]:
    candidates = []
    for at, layer in enumerate(states.layers):
        sides = states.positive[:, at], states.negative[:, at]
        _require(all(side.isfinite().all() and side.std() > 0 for side in sides))  # or nothing can be decomposed
        vectors = unit(discriminants(*sides, SHRINKAGES)).float()
        _require(vectors.isfinite().all() and vectors.norm(dim=-1).all())
        separations = separate(heldout_projections(*sides, SHRINKAGES), list(range(len(states.positive))))
        for shrinkage, vector, found in zip(SHRINKAGES, vectors, separations, strict=True):
            candidates.append(_Candidate(Direction("discriminant", layer, vector, shrinkage=shrinkage), found))
    return candidates


def _require(numbers: Tensor | bool) -> None:
    if not numbers:
        remedy = "look at the induced answers, and at model.dtype if it is float16"
        raise StageFailed("direction", "it is zero or not a number at some layer", remedy)
