"""Stage inspect: what is in the preference pairs, before anything is computed of them.

Columns, counts, lengths, repetitions, contradictions, the prompts that evaluation sets ask too, and five rows to read.
With model=local lengths are also told in that model's tokens.
"""

import re
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alignment.data.chat import chat_format
from alignment.data.columns import readable
from alignment.data.inspection import distribution, examples, inspect, schema
from alignment.data.same_prompts import prompt_hashes, turn_hashes
from alignment.inputs.pairs import evaluation_pairs, given_pairs, set_aside
from alignment.models.source import model_source, ready_path
from alignment.reports.pictures.reward_figures import draw_lengths
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir

SHOWN = 5
IN_TOKENS = 2000  # pairs whose texts are tokenized


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    train, heldout = given_pairs(cfg, run, ranks)
    counts = Rows(train.read + heldout.read, train.read + heldout.read, 0)
    if not ranks.main:
        return counts
    parts = {"train": train.rows, "heldout": heldout.rows}
    found = {
        name: inspect(ranks.progress(rows, f"inspecting {name}", len(rows), "pair")) for name, rows in parts.items()
    }
    sampled = examples(train.rows, max(SHOWN, IN_TOKENS), cfg.data.seed)
    summary = {
        "data": cfg.data.name,
        "schema": schema(),
        "parts": found,
        "tokens": _tokens(cfg, sampled),
        "overlap": _overlap(cfg, run, train.rows),
        "quarantined": _reasons(set_aside(cfg, run)),
        "sources": None if cfg.data.name == "world" else artifacts.read_json(run.data_counts)["sources"],
        "examples": sampled[:SHOWN],
    }
    artifacts.write_json(out / run.inspection.name, summary)
    draw_lengths(found["train"], out / "lengths.png")
    return counts


def _tokens(cfg: DictConfig, rows: list[dict]) -> dict | None:
    """Of a sample, in the tokens of a model that is given; the world's has no words for other text."""
    if cfg.model.name == "world" and cfg.data.name != "world":
        return None
    format = chat_format(_tokenizer(cfg), cfg.model.chat_template)
    lengths: dict[str, list[int]] = {"prompt": [], "chosen": [], "rejected": []}
    for _, both in readable(rows, lambda row: format.render(row["prompt"], [row["chosen"], row["rejected"]])):
        lengths["prompt"].append(both[0].prompt_length)
        for side, one in zip(("chosen", "rejected"), both, strict=True):
            lengths[side].append(len(one.ids) - one.prompt_length)
    described = {side: distribution(values) for side, values in lengths.items()}
    return {"model": cfg.model.path or "world", "pairs": len(lengths["prompt"]), **described}


def _tokenizer(cfg: DictConfig) -> PreTrainedTokenizerBase:
    source = model_source(cfg.model)
    return AutoTokenizer.from_pretrained(ready_path(source), revision=source.revision)


def _overlap(cfg: DictConfig, run: RunDir, rows: list[dict]) -> dict[str, dict]:
    """By evaluation set: its prompts, and how many pairs ask one of them. Of real data they are set aside."""
    if cfg.data.name != "world":
        counts = artifacts.read_json(run.data_counts)
        leaked = {name: sum(one["leaked"].get(name, 0) for one in counts["sources"]) for name in counts["kept_out"]}
        return {name: {"prompts": prompts, "pairs": leaked[name]} for name, prompts in counts["kept_out"].items()}
    found = {}
    for name, part in evaluation_pairs(cfg).items():
        prompts = prompt_hashes(row["prompt"] for row in part.rows)
        pairs = sum(bool(turn_hashes(row["prompt"]) & prompts) for row in rows)
        found[name] = {"prompts": len(prompts), "pairs": pairs}
    return found


def _reasons(quarantined: list[dict]) -> dict[str, int]:
    """How often each, with the values that differ between rows left out."""
    value = re.compile(r"^(\w+ is |id |\w+ )('.*?'|\S+?)(, n| was there| fields)")
    reasons = (value.sub(r"\1...\3", row["reason"]) for row in quarantined)
    return dict(Counter(reasons).most_common(10))
