"""Margins of people's pairs by SmolLM2: the shipped direction against the matched one, on prompts kept for the end.

    python -m benchmarks.real_margins [folder for the runs]        about half an hour on two cores

The matched direction was developed on PKU's prompts of the dev half. The other half, hh-rlhf's harmless pairs and
HELM's grades were read for this table and for nothing else. Neither direction sees a label of any pair. Intervals are
over prompts, paired where two directions rank the same pairs. Runs go on where they were stopped.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alignment.data.same_prompts import prompt_text
from alignment.maths.metrics import spearman
from alignment.maths.paired import paired_difference
from alignment.maths.statistics import Interval, bootstrap, rate_interval
from alignment.runs.artifacts import read_rows

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
ANNOTATORS = {"shipped": "auto", "matched": "matched"}
MODEL = ("model=smollm2", "model.dtype=bfloat16")  # bfloat16: the sooner done on processors that multiply it


def main(folder: Path) -> None:
    halves = _write_halves(folder)
    pku = ["data=file", f"data.path={halves['dev']}", f"data.heldout_path={halves['other']}"]
    given = {"pku_saferlhf": pku, "helm_graded": ["data=helm_graded"], "hh_harmless": ["data=hh_harmless"]}
    result: dict = {"model": None, "parts": {}, "calibration": {}, "seconds": {}}
    for data, settings in given.items():
        rows = {}
        for name, annotator in ANNOTATORS.items():
            started = time.monotonic()
            run = _annotated(folder / data, annotator, settings)
            result["seconds"][f"{data} {name}"] = round(time.monotonic() - started)
            rows[name] = {part: read_rows(run / f"{part}.parquet") for part in ("pairs", "heldout_pairs")}
            calibration = json.loads((run / "calibration.json").read_text())
            result["calibration"][f"{data} {name}"] = calibration
        if data == "pku_saferlhf":
            parts = {"PKU, dev half": ["pairs"], "PKU, other half": ["heldout_pairs"]}
        else:
            parts = {data: ["pairs", "heldout_pairs"]}
        for part, files in parts.items():
            of_part = {name: [row for file in files for row in found[file]] for name, found in rows.items()}
            result["parts"][part] = _compared(of_part)
            print(part, json.dumps(result["parts"][part]), flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "real_margins.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def _write_halves(folder: Path) -> dict[str, Path]:
    """PKU's pairs in two files, by the hash of their prompt."""
    rows = json.loads((DATA / "pku_saferlhf" / "safe_unsafe_pairs.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    files = {"dev": folder / "dev.jsonl", "other": folder / "other.jsonl"}
    lines: dict[str, list[str]] = {name: [] for name in files}
    for row in rows:
        key = f"real{[{'role': 'user', 'content': row['prompt']}]!r}"  # the split of the first day, kept
        half = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2
        pair = {"prompt": row["prompt"], "chosen": row["response"][0], "rejected": row["response"][1]}
        lines["other" if half else "dev"].append(json.dumps(pair, ensure_ascii=False))
    for name, file in files.items():
        file.write_text("\n".join(lines[name]) + "\n")
    return files


def _annotated(folder: Path, annotator: str, settings: list[str]) -> Path:
    """The folder of stage annotate, its stages run where they are missing; states are read once for both annotators."""
    command = [sys.executable, "-m", "alignment.run", "+recipe=legend_rm", "stages=[read_states,induce,annotate]"]
    command += [*MODEL, *settings, f"annotator={annotator}", "annotator.scope=all", f"run.dir={folder}"]
    subprocess.run([*command, "states.keep=all"], check=True)
    return folder / "annotate"


def _compared(rows: dict[str, list[dict]]) -> dict:
    """Every figure of a part of the data: of each direction, and of the difference between them."""
    first = rows["shipped"]
    if [row["id"] for row in first] != [row["id"] for row in rows["matched"]]:
        raise SystemExit("the two annotators were given different pairs")
    prompts = np.unique([prompt_text(row["prompt"]) for row in first], return_inverse=True)[1]
    characters = np.array([len(row["chosen"][0]["content"]) - len(row["rejected"][0]["content"]) for row in first])
    raw = {name: np.array([row["margin_raw"] for row in of_name]) for name, of_name in rows.items()}
    raw["the shorter one"] = -characters.astype(float)
    right = {name: (values > 0) + (values == 0) / 2 for name, values in raw.items()}
    random = lambda: np.random.default_rng(0)  # noqa: E731
    found: dict = {"pairs": len(first), "prompts": int(prompts.max()) + 1}
    for name, values in raw.items():
        found[name] = {"ranked_right": rate_interval(right[name], prompts, random()).summary}
        found[name]["length"] = _interval(lambda at, v=values: spearman(v[at], characters[at].astype(float)), prompts)
    for rival in ("shipped", "the shorter one"):
        gain = paired_difference(right[rival], right["matched"], prompts, random())
        found[f"matched minus {rival}"] = gain.summary
    if first[0]["given_margin"] is not None:
        grades = np.array([row["given_margin"] for row in first], dtype=float)
        for name, values in raw.items():
            found[name]["grades"] = _interval(lambda at, v=values: spearman(v[at], grades[at]), prompts)
    return found


def _interval(statistic: Callable[[np.ndarray], float], prompts: np.ndarray) -> dict:
    """A rank correlation with its interval over prompts."""
    whole = statistic(np.arange(len(prompts)))
    drawn: Interval | None = bootstrap(lambda at: {"it": statistic(at)}, prompts, np.random.default_rng(0), 1000)["it"]
    return {"mean": whole, "ci95": None if drawn is None else [drawn.low, drawn.high]}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/real_margins").resolve())
