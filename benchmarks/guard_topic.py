"""What a guard learns of harm and what of the topic: by what it learns from, and by how much its prompts may explain.

    python -m benchmarks.guard_topic RUN    a run of +recipe=guard whose guard.transfer names guard_sets.py's files

Every row is of fits to other prompts: folds keep nearly the same prompts of all sets together, so that an answer of
SmolLM2's own to a prompt of XSTest is scored by a guard that learned from no answer to it. The threshold balances F1 on
Safe-RLHF mini. Results are in results/guard_topic.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from alignment.data.labelled_sets import labelled_set
from alignment.data.near_duplicates import near_duplicate_groups
from alignment.data.prompt_folds import dealt_folds
from alignment.data.same_prompts import opening
from alignment.evaluation.guard_quality import found_by_category, guard_figures, share_called
from alignment.maths.answer_probabilities import balanced_threshold, fit_calibration
from alignment.maths.answer_ridge import products, scores_of_others
from alignment.models.answer_states import PLACES
from alignment.models.kept_states import KeptStates
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir

RESULTS = Path(__file__).resolve().parent / "results" / "guard_topic.json"
DATA = "../shared/data"
MINI, FOLDS, PENALTY = "beavertails", 5, 3.0
XSTEST = ("xstest_safe", "xstest_unsafe")
LEARNED = {  # what a guard learns from
    "mini": (MINI,),
    "mini, XSTest": (MINI, *XSTEST),
    "mini, XSTest, AlpacaEval": (MINI, *XSTEST, "alpaca_eval"),
    "mini, PKU, XSTest": (MINI, "pku_saferlhf", *XSTEST),
    "mini, PKU, XSTest, AlpacaEval": (MINI, "pku_saferlhf", *XSTEST, "alpaca_eval"),
}
TOPICS = (0.0, 1.0, 4.0)


def main(folder: Path) -> None:
    run = RunDir(folder)
    rows, kept = artifacts.read_rows(run.guard_answers), KeptStates.open(run.answer_states)
    names = np.array([
        row["source"].partition("/")[0] if row["part"] == "fitted" else Path(row["part"]).stem for row in rows
    ])  # fmt: skip
    harmful, learnable = np.array([row["toxic"] for row in rows]), np.array([row["part"] == "fitted" for row in rows])
    groups = near_duplicate_groups([opening(row["prompt"])["content"] for row in rows])
    folds = dealt_folds(groups, FOLDS, 0, "folds")
    labels = torch.from_numpy(np.where(harmful, 1.0, -1.0))[:, None]
    keys, layers = [bytes.fromhex(row["key"]) for row in rows], kept.meaning.layers // len(PLACES)
    alone = [
        bytes.fromhex(row["prompt_key"] or row["key"]) for row in rows
    ]  # of answers that nothing learns from: unused
    read = products(kept.states(keys, place + 1) for place in range(kept.meaning.layers))
    asked = products(kept.states(alone, layer + 1) for layer in range(layers))
    mini = names == MINI
    kinds = {
        (row["prompt"][0]["content"], row["response"]): row["category"]
        for row in labelled_set("do_not_answer", DATA).rows
    }
    of_kind = [kinds.get((row["prompt"][0]["content"], row["response"])) for row in rows]
    results: dict = {"answers": {name: int((names == name).sum()) for name in np.unique(names)}, "rows": []}
    for learned, sources in LEARNED.items():
        own = np.isin(names, sources) & learnable
        for topic in TOPICS:
            scores, both = np.empty(len(rows)), read.with_topic(asked, topic)
            for fold in range(FOLDS):
                fitted, others = np.flatnonzero(own & (folds != fold)), np.flatnonzero(folds == fold)
                fit = scores_of_others(both, labels, torch.from_numpy(fitted), torch.from_numpy(others), [PENALTY])
                scores[others] = fit[0, :, 0].numpy()
            harm = fit_calibration(scores[mini], harmful[mini]).probabilities(scores)
            called = harm >= balanced_threshold(harm[mini], harmful[mini])
            figures = {
                name: guard_figures(harm, called, harmful, groups, 0, names == name)
                for name in (MINI, "do_not_answer", "helm", "xstest_unsafe", "pku_saferlhf")
            }
            alarms = {
                name: share_called(called[names == name], groups[names == name], 0)
                for name in ("own_xstest", "own_alpaca", "xstest_safe", "alpaca_eval")
            }
            dna = names == "do_not_answer"
            of = [kind for kind, is_dna in zip(of_kind, dna, strict=True) if is_dna]
            found = found_by_category(called[dna], harmful[dna], of, groups[dna], 0)
            results["rows"].append(
                {"learned": learned, "topic": topic, **figures, "false_alarms": alarms, "found": found}
            )
            print(learned, topic, {name: round(one["auroc"]["mean"], 3) for name, one in figures.items()},
                  {name: round(one["mean"], 3) for name, one in alarms.items()}, flush=True)  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
