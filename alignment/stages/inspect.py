"""Stage inspect: what is in the preference pairs, before anything is computed of them.

It shows columns, counts, lengths, repetitions, contradictions, the prompts that evaluation sets ask too, and five rows
to read; with model=local also lengths in that model's tokens.
"""

import re
from collections import Counter

from omegaconf import DictConfig
from transformers import AutoTokenizer

from alignment.data.chat import chat_format
from alignment.data.columns import readable
from alignment.data.inspection import distribution, examples, inspect, schema
from alignment.data.same_prompts import prompt_hashes, turn_hashes
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs, given_pairs, set_aside
from alignment.models.source import model_source, ready_path
from alignment.reports.pictures.reward_figures import draw_lengths
from alignment.runs import artifacts
from alignment.runs.manifest import Rows

SHOWN = 5
IN_TOKENS = 2000  # pairs whose texts are tokenized


def run(job: Job) -> Rows:
    cfg, ranks = job.cfg, job.ranks
    train, heldout = given_pairs(cfg, job.run, ranks)
    counts = Rows(train.read + heldout.read, train.read + heldout.read, 0)
    if not ranks.main:
        return counts
    parts = {
        name: inspect(ranks.progress(rows, f"inspecting {name}", len(rows), "pair"))
        for name, rows in (("train", train.rows), ("heldout", heldout.rows))
    }
    sampled = examples(train.rows, max(SHOWN, IN_TOKENS), cfg.data.seed)
    summary = {
        "data": cfg.data.name,
        "schema": schema(),
        "parts": parts,
        "tokens": _tokens(cfg, sampled),
        "overlap": _overlap(job, train.rows),
        "quarantined": _reasons(set_aside(cfg, job.run)),
        "sources": None if cfg.data.name == "world" else artifacts.read_json(job.run.data_counts)["sources"],
        "examples": sampled[:SHOWN],
    }
    artifacts.write_json(job.out / job.run.inspection.name, summary)
    draw_lengths(parts["train"], job.out / "lengths.png")
    return counts


def _tokens(cfg: DictConfig, rows: list[dict]) -> dict | None:
    """The lengths of some pairs in the model's tokens; the world's model has no tokens for other words than its own."""
    if cfg.model.name == "world" and cfg.data.name != "world":
        return None
    source = model_source(cfg.model)
    tokenizer = AutoTokenizer.from_pretrained(ready_path(source), revision=source.revision)
    format = chat_format(tokenizer, cfg.model.chat_template)
    lengths: dict[str, list[int]] = {"prompt": [], "chosen": [], "rejected": []}
    for _, answers in readable(rows, lambda row: format.render(row["prompt"], [row["chosen"], row["rejected"]])):
        lengths["prompt"].append(answers[0].prompt_length)
        for side, answer in zip(("chosen", "rejected"), answers, strict=True):
            lengths[side].append(len(answer.ids) - answer.prompt_length)
    described = {side: distribution(values) for side, values in lengths.items()}
    return {"model": cfg.model.path or cfg.model.name, "pairs": len(lengths["prompt"]), **described}


def _overlap(job: Job, rows: list[dict]) -> dict[str, dict]:
    """How many prompts each evaluation set has, and how many pairs ask one of them. Such real pairs are set aside."""
    if job.cfg.data.name != "world":
        counts = artifacts.read_json(job.run.data_counts)
        return {
            name: {"prompts": prompts, "pairs": sum(source["leaked"].get(name, 0) for source in counts["sources"])}
            for name, prompts in counts["kept_out"].items()
        }
    overlap = {}
    for name, part in evaluation_pairs(job.cfg).items():
        prompts = prompt_hashes(row["prompt"] for row in part.rows)
        pairs = sum(bool(turn_hashes(row["prompt"]) & prompts) for row in rows)
        overlap[name] = {"prompts": len(prompts), "pairs": pairs}
    return overlap


def _reasons(quarantined: list[dict]) -> dict[str, int]:
    """The ten commonest reasons and how often each was given; values that differ from row to row are left out."""
    value = re.compile(r"^(\w+ is |id |\w+ )('.*?'|\S+?)(, n| was there| fields)")
    reasons = (value.sub(r"\1...\3", row["reason"]) for row in quarantined)
    return dict(Counter(reasons).most_common(10))
