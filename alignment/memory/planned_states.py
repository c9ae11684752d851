"""What stage read_states will keep: of how many distinct answers, on how much disk; or why nothing."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from omegaconf import DictConfig
from transformers import PreTrainedConfig

from alignment.data.files import read_file
from alignment.data.same_prompts import text_hash
from alignment.inputs.pairs import heldout_source, sources
from alignment.models.kept_states import BYTES, bytes_kept, states_bytes, why_none
from alignment.stages import takes_states, too_few_take_states
from alignment.types import LayerChoice

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PlannedStates:
    """answers: distinct ones, of two for each pair. takers: the stages that take them; kept: bytes, at most; why: none
    are kept, None if they are."""

    answers: int
    layers: int
    width: int
    takers: tuple[str, ...]
    kept: int
    why: str | None

    @property
    def size(self) -> int:
        return states_bytes(self.answers, self.layers, self.width)

    @property
    def share(self) -> float:
        """Of the answers, as many as are kept."""
        return min(1.0, self.kept / self.size) if self.size else 1.0

    @property
    def line(self) -> str:
        """What a plan says of them."""
        size = _written(self.size)
        product = f"{self.answers:,} distinct answers x {self.layers} layers x {self.width} x {BYTES} bytes = {size}"
        takers = " and ".join(self.takers) or "later runs"
        if self.why is not None:
            decided = f"none kept: {self.why}"
        elif self.share < 1:
            decided = f"{_written(self.kept)}, of prompts drawn by data.seed, kept for {takers}, which read the others"
        else:
            decided = f"kept for {takers}"
        return f"  states: {product}; {decided}"


def _written(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def left_to_read(states: PlannedStates | None, stage: str, total: float) -> int:
    """The tokens that a stage has to read, of so many: none whose states it takes, but for texts that it cuts."""
    takes = states is not None and stage in states.takers
    return round(total * (1 - states.share)) if takes else round(total)


def planned_states(cfg: DictConfig, model: PreTrainedConfig) -> PlannedStates | None:
    """UserError where all are to be kept and have no room; None in a run without the stage."""
    if "read_states" not in cfg.stages:
        return None
    layers, width = model.num_hidden_layers, model.hidden_size
    answers, takers, run = distinct_answers(cfg), tuple(takes_states(cfg)), Path(cfg.run.dir)
    there = next(parent for parent in (run, *run.absolute().parents) if parent.exists())
    size = bytes_kept(cfg.states.keep, states_bytes(answers, layers, width))
    why = why_none(cfg.states.keep, too_few_take_states(cfg), size, shutil.disk_usage(there).free)
    return PlannedStates(answers, layers, width, takers, size if why is None else 0, why)


def distinct_answers(cfg: DictConfig) -> int:
    """How many answers to read once there are, those of pairs kept from training among them; of the world, at most."""
    data = cfg.data
    if data.name == "world":
        return 2 * (data.pairs + data.heldout + 3 * data.evaluation)
    own = heldout_source(data)
    seen: set[int] = set()
    pairs = 0
    for source in [*sources(data), *([own] if own else [])]:
        for file in source.files(data.folder):
            for _, row in source.raw_pairs(read_file(source.key, str(file))):
                if not isinstance(row, str):
                    pairs += 1
                    seen |= {text_hash(repr((row.get("prompt"), row.get(side)))) for side in SIDES}
    return len(seen) if data.rows is None or pairs <= data.rows else round(len(seen) * data.rows / pairs)


def induced_states(cfg: DictConfig, text_config: PreTrainedConfig) -> int:
    """The bytes of the states of both answers of all induced pairs, which annotate holds in float32."""
    one = cfg.annotator.labels is None and cfg.annotator.layer not in get_args(LayerChoice)
    layers = 1 if one else text_config.num_hidden_layers
    return cfg.annotator.contrast.count * 2 * 4 * layers * text_config.hidden_size
