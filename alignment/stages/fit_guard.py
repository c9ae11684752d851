"""Stage fit_guard: a guard of the states that read_answers kept, beside one of words alone, and how good both are.

Every figure of the labelled answers is of fits to other prompts; those of guard.transfer are of the guard that is saved.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from alignment.data.near_duplicates import signatures
from alignment.data.prompt_folds import dealt_folds
from alignment.data.same_prompts import opening
from alignment.evaluation.guard_quality import found_by_category, guard_figures, share_called
from alignment.inputs.job import Job
from alignment.judges.words_guard import WordsGuard, fit_words
from alignment.models.answer_states import StateReader
from alignment.models.devices import device
from alignment.models.guard import KNOWN, Guard, GuardMeaning
from alignment.models.guard_fit import (
    Fitted,
    HeldOut,
    Labelled,
    Rule,
    category_names,
    fit_guard,
    held_out,
    held_out_by,
    label_columns,
    learning_curve,
    products_of,
    require_both,
)
from alignment.models.kept_states import KeptStates
from alignment.models.load import load_backbone
from alignment.models.source import model_source, named
from alignment.runs import artifacts
from alignment.runs.manifest import Rows

FITTED = "fitted"  # the part of the answers that read_answers kept to be fitted on


def run(job: Job) -> Rows:
    cfg, settings, seed = job.cfg, job.cfg.guard, job.cfg.seed
    rows = artifacts.read_rows(job.run.guard_answers)
    if not job.ranks.main:
        return Rows(len(rows), len(rows), 0)
    parts: dict[str, list[dict]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    fitted = parts.pop(FITTED)
    kept = KeptStates.open(job.run.answer_states)
    answers = _labelled(fitted, settings.folds, seed)
    require_both(answers.harmful, answers.folds)
    most_false = None if settings.threshold == "balanced" else float(settings.threshold)
    rule, names = Rule(most_false, settings.false_alarms), category_names(answers)
    labels = label_columns(answers, names)
    all_layers = kept.meaning.layers // len(settings.poolings)
    wanted = _wanted(settings.layers, all_layers)

    def states_of(rows: list[dict], layers: range) -> Iterator[Tensor]:
        return _states(rows, kept, layers, len(settings.poolings))

    read = products_of(lambda: states_of(fitted, wanted))
    last = products_of(lambda: states_of(fitted, range(all_layers, all_layers + 1)))
    by = {
        "guard": held_out(read.values, labels, answers, rule),
        "last_layer": held_out(last.values, labels[:, :1], answers, rule),
        "words": held_out_by(_words_by_folds(fitted, answers, seed), answers, rule),
        "length": held_out_by(np.log([1.0 + row["tokens"] for row in fitted]), answers, rule),
    }
    made = fit_guard(lambda: states_of(fitted, wanted), read, labels, names, answers, rule)
    curve = learning_curve(read.values, labels, answers, made.penalty, seed)
    report = {
        "fit": settings.fit,
        "layers": [wanted[0], wanted[-1]],
        "scorers": {name: guard_figures(*of[:2], answers.harmful, answers.groups, seed) for name, of in by.items()},
        "false_alarms": _false_alarms(by, answers, seed),
        "curve": {str(size): auroc_of(scores, answers, seed) for size, scores in curve.items()},
        "categories": found_by_category(by["guard"].called, answers.harmful, answers.categories, answers.groups, seed),
    }
    guard = _as_guard(job, made, wanted, kept, fitted, report)
    words = fit_words(*_texts(fitted), answers.harmful, seed)
    ...
    report["transfer"] = ...
    artifacts.write_json(job.out / job.run.guard_report.name, report)
    return Rows(len(rows), len(rows), 0)
