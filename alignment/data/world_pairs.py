"""The embedded world's preference pairs, in the columns of all preference data."""

from collections.abc import Iterable, Mapping
from typing import Any

from alignment.data.columns import Loaded, pair
from alignment.world.grammar import EVALUATION_SETS
from alignment.world.preferences import Drawing, evaluation_pairs, heldout_pairs, training_pairs


def drawing(data: Mapping[str, Any]) -> Drawing:
    """How pairs are drawn and labelled, from the settings of the data."""
    return Drawing(data["seed"], data["noise"], data["noise_kind"], data["length"], data["double_edged"])


def world_pairs(train: int, heldout: int, drawing: Drawing) -> tuple[Loaded, Loaded]:
    """Training and held-out pairs of the embedded world, labelled with noise."""
    return _world(training_pairs(train, drawing)), _world(heldout_pairs(heldout, drawing))


def world_evaluation_pairs(count: int, drawing: Drawing) -> dict[str, Loaded]:
    """The world's clean evaluation sets, by name."""
    return {name: _world(evaluation_pairs(name, count, drawing)) for name in EVALUATION_SETS}


def _world(rows: Iterable[dict]) -> Loaded:
    return Loaded([pair(row, row["id"], "world") for row in rows])
