"""Pairs of other published sets, which reward models rank as well and never learn from."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from alignment.data.cells import BadRow
from alignment.data.columns import intact, pair
from alignment.data.files import read_file
from alignment.data.preference_pairs import Source
from alignment.data.same_prompts import prompt_hashes, turn_hashes
from alignment.runs.ranks import Ranks
from alignment.types import UserError

KEY = "reward_model.transfer"


def transfer_files(cfg: DictConfig) -> list[Path]:
    """The files of all sets, in order."""
    return [file for name in cfg.reward_model.transfer for file in Source(name).files(cfg.data.folder)]


def transfer_pairs(cfg: DictConfig, trained_on: Sequence[dict], ranks: Ranks) -> dict[str, list[dict]]:
    """By set its pairs, but for those whose lines make no pair, or that ask what a training pair does."""
    asked = prompt_hashes(row["prompt"] for row in trained_on)
    pairs = {}
    for name in cfg.reward_model.transfer:
        pairs[name], left_out = _pairs(Source(name), cfg.data.folder, asked)
        ranks.say(
            f"  transfer to {name}: {len(pairs[name]):,} pairs; {left_out:,} left out: no pair, or a training prompt"
        )
    return pairs


def transfer_prompts(cfg: DictConfig) -> dict[str, set[int]]:
    """By set what its pairs ask, in any turn, as hashes."""
    return {
        name: set().union(*(turn_hashes(row["prompt"]) for row in _pairs(Source(name), cfg.data.folder, set())[0]))
        for name in cfg.reward_model.transfer
    }


def _pairs(source: Source, folder: str, asked: set[int]) -> tuple[list[dict], int]:
    rows, left_out, offset = [], 0, 0
    for file in source.files(folder):
        read = 0
        for lines, raw in source.raw_pairs(read_file(KEY, str(file))):
            read = max(read, *lines)
            try:
                row = pair(intact(raw), "-".join(f"{offset + line:09d}" for line in lines), source.name)
            except BadRow:
                left_out += 1
                continue
            if turn_hashes(row["prompt"]) & asked:
                left_out += 1
            else:
                rows.append(row)
        offset += read
    if not rows:
        raise UserError(KEY, f"no pair of {source.name} is left", "name a set with other prompts than the training's")
    return rows, left_out
