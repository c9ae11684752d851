"""Margins of people's pairs by SmolLM2: the shipped direction against the matched one, on prompts kept for the end.

    python -m benchmarks.real_margins [folder for the runs]        about half an hour on two cores

The directions were developed on PKU's prompts of the dev half; the other half was read twice, before the labelled
answers were cut to equal lengths and after, hh-rlhf's harmless pairs and HELM's grades likewise. Shipped and matched
see no label at all. Beside them a discriminant of 400 safe and 400 unsafe answers to other prompts, which people
labelled, cut to equal lengths or whole; and matched with kind, layer and shrinkage chosen by 64 pairs of the dev half.
Pairs that ask a labelled prompt in any turn are left out for all of them. All are projected on states that are read
once. Intervals are over prompts, paired where two directions rank the same pairs.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from alignment.data.columns import Loaded
from alignment.data.preference_pairs import Source
from alignment.data.same_prompts import prompt_text, turn_hashes
from alignment.inputs.pairs import given_pairs
from alignment.maths.direction import random_direction, unit
from alignment.maths.metrics import spearman
from alignment.maths.paired import paired_difference
from alignment.maths.statistics import bootstrap, rate_interval
from alignment.models.kept_states import KeptStates, item_keys
from alignment.models.load import load_backbone
from alignment.models.pair_states import whole_pairs
from alignment.models.source import model_source, named
from alignment.runs.artifacts import read_rows
from alignment.runs.manifest import hash_file
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("REPALIGN_DATA", HERE.parent.parent / "shared" / "data"))
ANNOTATORS = {  # the settings of each direction
    "shipped": ["annotator=auto"],
    "matched": ["annotator=matched"],
    "labelled": ["annotator=labelled"],
    "labelled_uncut": ["annotator=labelled", "annotator.contrast.match_length=false"],
    "labels64": ["annotator=matched", "annotator.labels=64"],
}  # fmt: skip
MODEL = ["model=smollm2", "model.dtype=bfloat16"]  # bfloat16: the sooner done on processors that multiply it
RANDOM = 20
LENGTH = "the shorter one"


def main(folder: Path) -> None:
    halves = _write_halves(folder)
    pku = ["data=file", f"data.path={halves['dev']}", f"data.heldout_path={halves['other']}"]
    given = {"pku_saferlhf": pku, "helm_graded": ["data=helm_graded"], "hh_harmless": ["data=hh_harmless"]}
    directions = {}
    for name, own in ANNOTATORS.items():
        kept = folder / f"direction-{name}"
        if not kept.exists():
            _run(folder / "pku_saferlhf", "[read_states,induce,annotate]", [*pku, *own])
            unfinished = kept.with_suffix(".unfinished")
            shutil.copytree(folder / "pku_saferlhf" / "annotate", unfinished, dirs_exist_ok=True)
            shutil.copy(folder / "pku_saferlhf" / "induce" / "induced.parquet", unfinished)
            unfinished.rename(kept)
        with safe_open(kept / "direction.safetensors", framework="pt") as file:
            directions[name] = (file.get_tensor("direction"), json.loads(file.metadata()["meaning"])["layer"])
    asked = read_rows(folder / "direction-labelled" / "induced.parquet")
    labelled = set().union(*(turn_hashes(row[key]) for row in asked for key in ("prompt", "negative_prompt")))
    result: dict = {"data": {}, "parts": {}, "layers": {name: layer for name, (_, layer) in directions.items()}}
    calibrations = {
        name: json.loads((folder / f"direction-{name}" / "calibration.json").read_text()) for name in ANNOTATORS
    }
    result["halves"] = {name: calibration["halves"] for name, calibration in calibrations.items()}
    for data, settings in given.items():
        _run(folder / data, "[read_states]", settings)
        cfg = compose_config(
            ["+recipe=legend_rm", *MODEL, *settings, "annotator.scope=all", f"run.dir={folder / data}"]
        )
        result["model"] = named(model_source(cfg.model))
        result["data"][data] = {file.name: hash_file(file) for file in _files(data)}
        train, heldout = given_pairs(cfg, RunDir(folder / data), Ranks())
        states = KeptStates.open(RunDir(folder / data).states)
        if data == "pku_saferlhf":
            parts = {"PKU, dev half": [train], "PKU, other half": [heldout]}
        else:
            parts = {data: [train, heldout]}
        for part, of_part in parts.items():
            every = [row for loaded in of_part for row in loaded.rows]
            rows = Loaded([row for row in every if not turn_hashes(row["prompt"]) & labelled])
            result["parts"][part] = _compared(rows, states, directions, load_backbone(model_source(cfg.model), "cpu"))
            print(part, json.dumps(result["parts"][part], indent=1), flush=True)
    _check(folder, result)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "real_margins.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def _write_halves(folder: Path) -> dict[str, Path]:
    """PKU's pairs in two files, by the hash of their prompt."""
    rows = json.loads((DATA / "pku_saferlhf" / "safe_unsafe_pairs.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    files = {"dev": folder / "dev.jsonl", "other": folder / "other.jsonl"}
    lines: dict[str, list[str]] = {name: [] for name in files}
    for row in rows:
        key = f"real{[{'role': 'user', 'content': row['prompt']}]!r}"
        half = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2
        pair = {"prompt": row["prompt"], "chosen": row["response"][0], "rejected": row["response"][1]}
        lines["other" if half else "dev"].append(json.dumps(pair, ensure_ascii=False))
    for name, file in files.items():
        file.write_text("\n".join(lines[name]) + "\n")
    return files


def _run(folder: Path, stages: str, settings: list[str]) -> None:
    command = [sys.executable, "-m", "alignment.run", "+recipe=legend_rm", f"stages={stages}", *MODEL, *settings]
    own = ["annotator.scope=all"] if "annotate" in stages else []
    subprocess.run([*command, *own, "states.keep=all", f"run.dir={folder}"], check=True)


def _files(data: str) -> list[Path]:
    """The files that a set's pairs were read from."""
    return Source(data).files(str(DATA))


def _compared(rows: Loaded, states: KeptStates, directions: dict, loaded) -> dict:
    """Every figure of a part of the data: of each direction, and of the differences between them."""
    items = whole_pairs(rows, loaded, 2048)
    keys = [key for item in items for key in item_keys(item)]
    prompts = np.unique([prompt_text(row["prompt"]) for row in rows.rows], return_inverse=True)[1]
    tokens = np.array([len(item.answers[0]) - len(item.answers[1]) for item in items], dtype=float)
    at = {layer: states.states(keys, layer) for layer in {layer for _, layer in directions.values()}}
    differences = {layer: found[0::2] - found[1::2] for layer, found in at.items()}
    raw = {name: (differences[layer] @ unit(vector)).numpy() for name, (vector, layer) in directions.items()}
    others = unit(random_direction(RANDOM, loaded.model.config.hidden_size, torch.Generator().manual_seed(0)))
    random = (differences[directions["matched"][1]] @ others.T).numpy()
    raw[LENGTH] = -tokens
    right = {name: (values > 0) + (values == 0) / 2 for name, values in raw.items()}
    generator = lambda: np.random.default_rng(0)  # noqa: E731
    shares = (random > 0).mean(axis=0)
    figures: dict = {"pairs": len(items), "prompts": int(prompts.max()) + 1, "random": sorted(shares.tolist())}
    for name, values in raw.items():
        figures[name] = {"ranked_right": rate_interval(right[name], prompts, generator()).summary}
        figures[name]["length"] = _interval(lambda at, v=values: spearman(v[at], tokens[at]), prompts)
    for name in (one for one in directions if one != "shipped"):
        for rival in ("shipped", LENGTH):
            gain = paired_difference(right[rival], right[name], prompts, generator())
            figures[f"{name} minus {rival}"] = gain.summary
    bought = paired_difference(right["matched"], right["labels64"], prompts, generator())
    figures["labels64 minus matched"] = bought.summary
    if rows.rows[0]["given_margin"] is not None:
        grades = np.array([row["given_margin"] for row in rows.rows], dtype=float)
        for name, values in raw.items():
            figures[name]["grades"] = _interval(lambda at, v=values: spearman(v[at], grades[at]), prompts)
    return figures


def _interval(statistic: Callable[[np.ndarray], float], prompts: np.ndarray) -> dict:
    """A rank correlation with its interval over prompts."""
    whole = statistic(np.arange(len(prompts)))
    drawn = bootstrap(lambda at: {"it": statistic(at)}, prompts, np.random.default_rng(0), 1000)["it"]
    return {"mean": whole, "ci95": None if drawn is None else [drawn.low, drawn.high]}


def _check(folder: Path, result: dict) -> None:
    """The margins that stage annotate published must rank as many pairs right as those of this table."""
    for name in ANNOTATORS:
        raw = np.array([row["margin_raw"] for row in read_rows(folder / f"direction-{name}" / "heldout.parquet")])
        share = float(((raw > 0) + (raw == 0) / 2).mean())
        found = result["parts"]["PKU, other half"][name]["ranked_right"]["mean"]
        if abs(share - found) > 0.005:
            raise SystemExit(f"{name}: stage annotate ranks {share:.4f} right, and this table says {found:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/real_margins").resolve())
