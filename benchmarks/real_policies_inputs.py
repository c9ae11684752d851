"""The pairs and prompts of the experiment on policies (real_policies.py), as files: the same ones every time."""

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from alignment.data.near_duplicates import near_duplicate_groups
from alignment.data.prompt_sets import prompt_set
from alignment.data.same_prompts import opening, text_hash
from alignment.evaluation.prompts import prompts_of
from alignment.inputs.pairs import given_pairs
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config

SHARES = {"policy": 0.42, "reward": 0.30, "test": 0.28}  # of the prompts of PKU's pairs, near-duplicates together
FLIPS = (0.0, 0.25)  # of the labels, those of the reward's pairs, too
SEEDS = (0, 1, 2, 3, 4)
HARMFUL = ("xstest", "simple_safety_tests", "harmbench")  # asked whole, beside PKU's own test prompts
ALPACA = {"alpaca_eval": 150, "alpaca_validation": 60}  # harmless prompts that are evaluated, and that choose
ADVBENCH = {"advbench_validation": 60}


def write_inputs(folder: Path, data: Path) -> None:
    """The pairs of each part and seed, and the prompts that are asked, as files: the same ones every time."""
    inputs = folder / "inputs"
    if inputs.exists():
        return
    unfinished = inputs.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    pairs = _pairs(folder)
    groups = near_duplicate_groups([opening(pair["prompt"])["content"] for pair in pairs])
    parts: dict[str, list[dict]] = {name: [] for name in SHARES}
    for pair, group in zip(pairs, groups.tolist(), strict=True):
        parts[part_of(group)].append(pair)
    for flips in FLIPS:
        for seed in SEEDS if flips else SEEDS[:1]:
            for name in ("policy", "reward"):
                _write(unfinished / f"{name}-{labels(flips, seed)}.jsonl", flipped(parts[name], flips, name, seed))
    _write(unfinished / "pairs.jsonl", parts["policy"] + parts["reward"])
    tests = {repr(pair["prompt"]): {"prompt": pair["prompt"], "harmful": True} for pair in parts["test"]}
    _write(unfinished / "pku_test.jsonl", tests.values())
    for name in HARMFUL:
        _write(unfinished / f"{name}.jsonl", map(_asked, prompt_set(name, str(data)).rows))
    for source, wanted in (("alpaca_eval", ALPACA), ("advbench", ADVBENCH)):
        drawn = prompts_of(source, str(data), sum(wanted.values()), seed=0)[0]
        random.Random(0).shuffle(drawn)
        for name, count in wanted.items():
            own, drawn = drawn[:count], drawn[count:]
            rows = ({"id": p.id, "prompt": p.messages, "harmful": p.harmful} for p in own)
            _write(unfinished / f"{name}.jsonl", rows)
    unfinished.rename(inputs)


def _pairs(folder: Path) -> list[dict]:
    """PKU's pairs as every run reads them: without the prompts that an evaluation set asks."""
    cfg = compose_config(["+recipe=real_policies", "data.heldout=0.01", f"run.dir={folder / 'read'}"])
    parts = given_pairs(cfg, RunDir(folder / "read"), Ranks())
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for part in parts for row in part.rows]


def part_of(group: int) -> str:
    position, above = text_hash(str(group)) / 2**64, 0.0
    for name, share in SHARES.items():
        above += share
        if position < above:
            return name
    return name


def flipped(pairs: list[dict], share: float, part: str, seed: int) -> list[dict]:
    """The pairs with the labels of exactly this share of them turned round, drawn by the seed."""
    wrong = set(random.Random(f"{part} {seed}").sample(range(len(pairs)), round(share * len(pairs))))
    return [
        {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} if number in wrong else pair
        for number, pair in enumerate(pairs)
    ]


def labels(flips: float, seed: int) -> str:
    return f"flips-{100 * flips:.0f}-seed-{seed}" if flips else "right"


def _asked(row: dict) -> dict:
    return {key: row[key] for key in ("id", "prompt", "harmful", "category")}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
