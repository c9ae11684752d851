"""How far the words alone tell harmful answers: the floor of every judge of harm, by people's labels.

    python -m benchmarks.word_floor        a minute on two cores; results are in results/word_floor.json

Folds keep near-duplicate prompts together. A guard's logits weigh safe and unsafe answers the same, so that 0 is the
balanced threshold. Answers to harmless prompts are judged twice: by a guard that learned from none, and by folds.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alignment.data.guard_answers import guard_answers
from alignment.data.near_duplicates import near, near_duplicate_groups, signatures
from alignment.data.prompt_folds import dealt_folds
from alignment.data.same_prompts import opening
from alignment.judges.words_guard import asked, fit_words
from alignment.maths.agreement import f1
from alignment.maths.detection import auroc
from alignment.maths.statistics import bootstrap, rate_interval

RESULTS = Path(__file__).resolve().parent / "results" / "word_floor.json"
FOLDER, FOLDS = "../shared/data", 5
HARMLESS = ("xstest_safe", "alpaca_eval")
Texts = tuple[Sequence[list], Sequence[str]]


def _alone(text: str) -> list:
    return [{"role": "user", "content": text}]


READS: dict[str, Callable[[list, str], tuple[list, str]]] = {  # what the guard is given as prompt and as answer
    "answer": lambda prompt, answer: (_alone("-"), answer),
    "prompt": lambda prompt, answer: (prompt, "-"),
    "joined": lambda prompt, answer: (_alone("-"), f"{asked(prompt)}\n{answer}"),
    "apart": lambda prompt, answer: (prompt, answer),
}


def texts(rows: Sequence[dict], reads: str = "apart") -> Texts:
    pairs = [READS[reads](row["prompt"], row["response"]) for row in rows]
    return [prompt for prompt, _ in pairs], [answer for _, answer in pairs]


def labels(rows: Sequence[dict]) -> np.ndarray:
    return np.array([row["toxic"] for row in rows])


def out_of_fold(rows: Sequence[dict], groups: np.ndarray, reads: str = "apart") -> np.ndarray:
    """The logit of each answer by a guard fitted on the other folds."""
    folds, logits = dealt_folds(groups, FOLDS, 0, "folds"), np.empty(len(rows))
    for fold in range(FOLDS):
        learned = [row for row, other in zip(rows, folds, strict=True) if other != fold]
        judged = [row for row, other in zip(rows, folds, strict=True) if other == fold]
        guard = fit_words(*texts(learned, reads), labels(learned), seed=0)
        logits[folds == fold] = guard.logits(*texts(judged, reads))
    return logits


def quality(logits: np.ndarray, toxic: np.ndarray, groups: np.ndarray) -> dict:
    """Macro-F1, sensitivity and specificity at the balanced threshold, and AUROC, with intervals over prompts."""

    def statistics(drawn: np.ndarray) -> dict[str, float]:
        truth, said = toxic[drawn], logits[drawn] > 0
        both = [f1(judged.astype(int), true.astype(int)) for judged, true in ((said, truth), (~said, ~truth))]
        (area,) = auroc(logits[drawn], truth, np.ones((1, len(drawn))))
        right = {"sensitivity": float(said[truth].mean()), "specificity": float((~said[~truth]).mean())}
        return {"macro_f1": sum(both) / 2, "auroc": float(area), **right}

    found = bootstrap(statistics, groups, np.random.default_rng(0))
    return {name: interval and interval.summary for name, interval in found.items()} | {"n": len(toxic)}


def alarms(logits: np.ndarray, rows: Sequence[dict]) -> dict:
    share = rate_interval((logits > 0).astype(float), groups_of(rows), np.random.default_rng(0))
    return {**share.summary, "n": len(rows)}


def transfer(folder: str = FOLDER, harmless: Sequence[str] = HARMLESS) -> dict:
    """AUROC on the answers of other sets to prompts that are near none of those learned from."""
    learned = guard_answers(["beavertails", *harmless], folder).rows
    guard = fit_words(*texts(learned), labels(learned), seed=0)
    known, found = signatures([opening(row["prompt"])["content"] for row in learned]), {}
    for name in ("do_not_answer", "pku_saferlhf"):
        rows = guard_answers([name], folder).rows
        seen = near(signatures([opening(row["prompt"])["content"] for row in rows]), known)
        rows = [row for row, there in zip(rows, seen, strict=True) if not there]
        measured = quality(guard.logits(*texts(rows)), labels(rows), groups_of(rows))
        found[name] = {**measured, "unsafe": int(labels(rows).sum()), "near what was learned": int(seen.sum())}
    return found


def groups_of(rows: Sequence[dict]) -> np.ndarray:
    return near_duplicate_groups([opening(row["prompt"])["content"] for row in rows])


def measure(folder: str = FOLDER, harmless: Sequence[str] = HARMLESS) -> dict:
    mini = guard_answers(["beavertails"], folder).rows
    groups = groups_of(mini)
    found = {reads: quality(out_of_fold(mini, groups, reads), labels(mini), groups) for reads in READS}
    every = guard_answers(["beavertails", *harmless], folder).rows
    others = {name: [row for row in every if _of(row, name)] for name in harmless}
    guard = fit_words(*texts(mini), labels(mini), seed=0)
    found["not learned from"] = {name: alarms(guard.logits(*texts(rows)), rows) for name, rows in others.items()}
    for left_out in harmless:  # the guard learns from the other harmless answers
        rows = [*mini, *(row for name in harmless if name != left_out for row in others[name])]
        logits = fit_words(*texts(rows), labels(rows), seed=0).logits(*texts(others[left_out]))
        found["not learned from"][f"{left_out}, but from the other"] = alarms(logits, others[left_out])
    rows = [*mini, *(row for name in harmless for row in others[name])]
    logits, everyone = out_of_fold(rows, groups_of(rows)), labels(rows)
    of_mini = np.arange(len(rows)) < len(mini)
    found["with harmless"] = quality(logits[of_mini], everyone[of_mini], groups)
    found["learned from"] = {}
    for name in harmless:
        place = np.array([_of(row, name) for row in rows])
        found["learned from"][name] = alarms(logits[place], [row for row in rows if _of(row, name)])
        threshold = float(np.quantile(logits[place], 0.9))
        sensitivity = float((logits[of_mini & everyone] > threshold).mean())
        found["learned from"][f"{name}, 10% alarms"] = {"threshold": threshold, "sensitivity": sensitivity}
    start = time.process_time()
    guard.logits(*texts(mini[:1000]))
    return {**found, "seconds for 1,000 answers": time.process_time() - start}


def _of(row: dict, source: str) -> bool:
    return row["source"].partition("/")[0] == source


if __name__ == "__main__":
    result = {**measure(), "transfer": transfer()}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
