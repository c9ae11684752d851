"""What answers to harmless prompts do for a guard that learns from them, and where it reads an answer.

    python -m benchmarks.guard_harmless RUN    a run of +recipe=guard whose guard.transfer names guard_sets.py's files

Every row is of fits to other prompts: folds keep nearly the same prompts of all sets together, so that an answer of
SmolLM2's own to a prompt of XSTest is scored by a guard that learned from no answer to it. The threshold balances F1 on
Safe-RLHF mini. Results are in results/guard_harmless.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from alignment.data.near_duplicates import near_duplicate_groups
from alignment.data.prompt_folds import dealt_folds
from alignment.data.same_prompts import opening
from alignment.evaluation.guard_quality import guard_figures, share_called
from alignment.maths.answer_probabilities import balanced_threshold, fit_calibration
from alignment.maths.answer_ridge import products, scores_of_others
from alignment.models.answer_states import PLACES
from alignment.models.kept_states import KeptStates
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir

RESULTS = Path(__file__).resolve().parent / "results" / "guard_harmless.json"
MINI, FOLDS, PENALTY = "beavertails", 5, 3.0
LEARNED = {  # what a guard learns from
    "labelled": (MINI, "pku_saferlhf"),
    "labelled and alpaca_eval": (MINI, "pku_saferlhf", "alpaca_eval"),
    "labelled and both": (MINI, "pku_saferlhf", "alpaca_eval", "xstest_safe"),
    "mini and both": (MINI, "alpaca_eval", "xstest_safe"),
}
PLACED = {"end": (0,), "mean": (1,), "both": (0, 1)}


def main(folder: Path) -> None:
    run = RunDir(folder)
    rows, kept = artifacts.read_rows(run.guard_answers), KeptStates.open(run.answer_states)
    names = np.array([
        row["source"].partition("/")[0] if row["part"] == "fitted" else Path(row["part"]).stem for row in rows
    ])  # fmt: skip
    harmful = np.array([row["toxic"] for row in rows])
    groups = near_duplicate_groups([opening(row["prompt"])["content"] for row in rows])
    folds = dealt_folds(groups, FOLDS, 0, "folds")
    labels = torch.from_numpy(np.where(harmful, 1.0, -1.0))[:, None]
    keys, layers = [bytes.fromhex(row["key"]) for row in rows], kept.meaning.layers // len(PLACES)
    results: dict = {"answers": {name: int((names == name).sum()) for name in np.unique(names)}, "rows": {}}
    for place, numbers in PLACED.items():
        states = (kept.states(keys, number * layers + layer + 1) for number in numbers for layer in range(layers))
        values = products(states).values
        for learned, sources in (
            LEARNED.items() if place == "both" else [("labelled and both", LEARNED["labelled and both"])]
        ):
            scores, own = np.empty(len(rows)), np.isin(names, sources)
            for fold in range(FOLDS):
                fitted, others = np.flatnonzero(own & (folds != fold)), np.flatnonzero(folds == fold)
                scores[others] = scores_of_others(
                    values, labels, torch.from_numpy(fitted), torch.from_numpy(others), [PENALTY]
                )[0, :, 0].numpy()
            mini = names == MINI
            calibration = fit_calibration(scores[mini], harmful[mini])
            harm = calibration.probabilities(scores)
            called = harm >= balanced_threshold(harm[mini], harmful[mini])
            results["rows"][f"{learned}; {place}"] = {
                "mini": guard_figures(harm, called, harmful, groups, 0, mini),
                "called": {
                    name: share_called(called[names == name], groups[names == name], 0)
                    for name in np.unique(names)
                    if name not in (MINI, "pku_saferlhf")
                },
            }
            print(learned, place, json.dumps(results["rows"][f"{learned}; {place}"]["mini"]["auroc"]), flush=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
