"""Stage fit_guard: a guard of the states that read_answers kept, beside one of words alone, and how good both are.

Every figure of the labelled answers is of fits to other prompts; those of guard.transfer are of the guards that are
saved.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from alignment.data.near_duplicates import turn_signatures
from alignment.data.prompt_folds import dealt_folds
from alignment.evaluation.guard_quality import cross_validated, found_by_category, guard_figures
from alignment.inputs.job import Job
from alignment.judges.words_guard import WordsGuard, fit_words
from alignment.maths.answer_probabilities import fit_calibration
from alignment.models.answer_states import PLACES
from alignment.models.guard import Guard, GuardMeaning
from alignment.models.guard_fit import (
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
    scores_by_folds,
    wanted_layers,
)
from alignment.models.kept_states import KeptStates
from alignment.models.model_card import CARD
from alignment.models.source import model_source, named
from alignment.reports.guard_card import guard_card
from alignment.runs import artifacts
from alignment.runs.manifest import Rows

AT_ONCE = 256  # answers whose states of all layers are in memory at once
FITTED = "fitted"  # the part of the answers that read_answers kept to be fitted on


def run(job: Job) -> Rows:
    cfg, settings, seed = job.cfg, job.cfg.guard, job.cfg.seed
    rows = artifacts.read_rows(job.run.guard_answers)
    if not job.ranks.main:
        return Rows(len(rows), len(rows), 0)
    parts: dict[str, list[dict]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    fitted, kept = parts.pop(FITTED), KeptStates.open(job.run.answer_states)
    answers = _labelled(fitted, settings.folds, seed)
    require_both(answers.harmful, answers.folds)
    most_false = None if settings.threshold == "balanced" else float(settings.threshold)
    rule, names = Rule(most_false, settings.false_alarms), category_names(answers)
    labels, count = label_columns(answers, names), kept.meaning.layers // len(PLACES)
    layers = wanted_layers(settings.layers, count)
    topic = settings.topic
    read = products_of(
        lambda: _states(fitted, kept, layers), (lambda: _prompts(fitted, kept, layers)) if topic else None, topic
    )
    last = products_of(lambda: _states(fitted, kept, range(count, count + 1)))
    words_logits = _words_by_folds(fitted, answers, seed)
    by = {
        "guard": held_out(read, labels, answers, rule),
        "last_layer": held_out_by(scores_by_folds(last, labels, answers), answers, rule),
        "words": held_out_by(words_logits, answers, rule),
        "length": held_out_by(np.log([1.0 + row["tokens"] for row in fitted]), answers, rule),
    }
    made = fit_guard(lambda: _states(fitted, kept, layers), read, labels, names, answers, rule)
    curve = learning_curve(read, labels, answers, made.penalty, seed)
    sources = dict(sorted(Counter(row["source"] for row in fitted).items()))
    report = {
        "fit": settings.fit, "model": named(model_source(cfg.model)), "layers": [layers[0], layers[-1]],
        "topic": topic, "penalty": made.penalty, "threshold": made.threshold, "sources": sources,
        **cross_validated(by, curve, answers, seed),
    }  # fmt: skip
    record = artifacts.read_json(job.run.answers_record)
    known = kept.states([bytes.fromhex(record["known"])])[0][_places(layers, count)]
    meaning = GuardMeaning(
        record["model"], record["loaded_as"], kept.meaning.model, settings.fit, sources, made.penalty, names,
        report["scorers"]["guard"],
    )  # fmt: skip
    seen = turn_signatures([row["prompt"] for row in fitted])
    guard = Guard(made.ridge, layers, made.calibration, made.threshold, kept.meaning.max_length, known, seen, meaning)
    guard.save(job.out / job.run.inside(job.run.guard))
    words = _words_guard(fitted, answers, words_logits, rule, seed)
    record = {"fit": settings.fit, "sources": sources, "quality": report["scorers"]["words"]}
    words.save(job.out / job.run.inside(job.run.words_guard), words.temperature, words.threshold, record)
    report["transfer"] = {}
    for name, part in parts.items():
        unknown = [
            row for row, known in zip(part, guard.has_seen([row["prompt"] for row in part]), strict=True) if not known
        ]
        if unknown:
            tried = {"left_out": len(part) - len(unknown), **_tried(unknown, guard, words, kept, seed)}
            report["transfer"][Path(name).name] = tried
        else:
            job.ranks.say(f"  the guard isn't tried on {name}: it is fitted on answers to all of its prompts")
    artifacts.write_json(job.out / job.run.guard_report.name, report)
    card = job.out / job.run.inside(job.run.guard) / CARD
    card.write_text(guard_card(report), encoding="utf-8")
    return Rows(len(rows), len(rows), 0)


def _labelled(rows: list[dict], folds: int, seed: int) -> Labelled:
    groups = np.array([row["group"] for row in rows])
    return Labelled(
        np.array([row["toxic"] for row in rows]),
        np.array([row["source"].partition("/")[0] for row in rows]),
        [row["category"] if row["toxic"] else None for row in rows],
        np.array([row["harmless"] or "" for row in rows]),
        groups,
        dealt_folds(groups, folds, seed, "guard.folds"),
    )


def _places(layers: range, count: int) -> list[int]:
    """Where the states of these layers lie among those of all, at each place of an answer."""
    return [place * count + layer - 1 for place in range(len(PLACES)) for layer in layers]


def _states(rows: list[dict], kept: KeptStates, layers: range) -> Iterator[Tensor]:
    keys = [bytes.fromhex(row["key"]) for row in rows]
    for place in _places(layers, kept.meaning.layers // len(PLACES)):
        yield kept.states(keys, place + 1)


def _prompts(rows: list[dict], kept: KeptStates, layers: range) -> Iterator[Tensor]:
    """Of each answer's prompt alone: at its last token, where both places are the same."""
    keys = [bytes.fromhex(row["prompt_key"]) for row in rows]
    for layer in layers:
        yield kept.states(keys, layer)


def _texts(rows: list[dict]) -> tuple[list[list[dict]], list[str]]:
    return [row["prompt"] for row in rows], [row["response"] for row in rows]


def _words_by_folds(rows: list[dict], answers: Labelled, seed: int) -> np.ndarray:
    """The logit of each answer, by a guard of words that was fitted on the other folds."""
    logits = np.empty(len(rows))
    for fold in np.unique(answers.folds):
        rest = [row for row, of in zip(rows, answers.folds, strict=True) if of != fold]
        own = [row for row, of in zip(rows, answers.folds, strict=True) if of == fold]
        fitted = fit_words(*_texts(rest), answers.harmful[answers.folds != fold], seed)
        logits[answers.folds == fold] = fitted.logits(*_texts(own))
    return logits


def _words_guard(rows: list[dict], answers: Labelled, by_folds: np.ndarray, rule: Rule, seed: int) -> WordsGuard:
    """The guard of words of all answers; calibration and threshold by the logits of fits to other folds."""
    words, calibration = fit_words(*_texts(rows), answers.harmful, seed), fit_calibration(by_folds, answers.harmful)
    threshold = rule.threshold(calibration.probabilities(by_folds), answers, np.arange(len(rows)))
    intercept = words.intercept - calibration.offset
    return WordsGuard(words.answer, words.prompt, intercept, calibration.temperature, threshold, seen=words.seen)


def _tried(rows: list[dict], guard: Guard, words: WordsGuard, kept: KeptStates, seed: int) -> dict:
    """How good both guards are on a set that they weren't fitted on."""
    harmful, groups = np.array([row["toxic"] for row in rows]), np.array([row["group"] for row in rows])
    keys = [bytes.fromhex(row["key"]) for row in rows]
    places = _places(guard.layers, kept.meaning.layers // len(PLACES))
    parts = [keys[start : start + AT_ONCE] for start in range(0, len(keys), AT_ONCE)]
    by_guard = np.concatenate([guard.scores(kept.states(part)[:, places])[0] for part in parts])
    harm = {"guard": by_guard, "words": words.probabilities(*_texts(rows))}
    thresholds = {"guard": guard.threshold, "words": words.threshold}
    called = {name: of >= thresholds[name] for name, of in harm.items()}
    categories = [row["category"] for row in rows]
    return {
        **{name: guard_figures(of, called[name], harmful, groups, seed) for name, of in harm.items()},
        "found_by_category": found_by_category(called["guard"], harmful, categories, groups, seed),
    }
