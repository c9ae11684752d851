"""No judge that was fitted may judge what it has seen: prompts it learned from, or activations that were trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.data.near_duplicates import any_turn_near, near, signatures
from alignment.judges.choice import JUDGES
from alignment.models.source import source_at
from alignment.types import UserError

REMEDY = "fit one without them: +recipe=guard with this run's data and evaluation.sets, and guard.fit=judge"


def fitted_judges(names: Sequence[str]) -> list[str]:
    """Those that are fitted on labelled answers."""
    return [name for name in names if JUDGES[name].kind in ("words", "probe")]


def require_unseen(settings: Mapping[str, Any], names: Sequence[str], prompts: Sequence[str]) -> None:
    """UserError for a judge of policies that was fitted on an answer to one of these prompts, or to nearly one, or on
    all answers there are."""
    known = None
    for name in fitted_judges(names):
        key, path = f"judge.{name}.path", settings[name]["path"]
        fit, seen = _of_guard(name, path)
        if fit != "judge":
            raise UserError(key, f"{path} was fitted on all labelled answers, to be compared and not to judge", REMEDY)
        known = signatures(list(dict.fromkeys(prompts))) if known is None else known
        if count := int(near(known, seen).sum()):
            problem = f"{path} was fitted on answers to {count} of this run's prompts, or to nearly the same"
            raise UserError(key, problem, REMEDY)


def require_untrained(
    settings: Mapping[str, Any], names: Sequence[str], trained: Mapping[str, str], unmade: Mapping[str, str]
) -> None:
    """UserError for a judge that reads one of the trained models that it judges. trained: their fingerprints, by what
    names them. unmade: of guards that are yet to be fitted, the fingerprint of the model that they will read."""
    for name in (name for name in fitted_judges(names) if JUDGES[name].kind == "probe"):
        more = settings[name]
        reads = {unmade[name] if name in unmade else _guards_model(more["path"])}
        if more.get("model"):
            key = f"judge.{name}.model"
            reads.add(source_at(more["model"], key, gguf_file=more.get("gguf_file")).fingerprint)
        for thing, fingerprint in trained.items():
            if fingerprint in reads:
                problem = f"{more['path']} reads the activations of {thing}, a trained model that it judges"
                remedy = "give a guard of the model before it was trained, or of another, as judge.probe.path and model"
                raise UserError(f"judge.{name}.path", problem, remedy)


def unseen_rows(name: str, settings: Mapping[str, Any], rows: Sequence[dict]) -> list[dict]:
    """The labelled answers that say something of a judge: of one that was fitted, those to prompts that it doesn't
    know. UserError if it knows them all."""
    if name not in fitted_judges([name]):
        return list(rows)
    known = any_turn_near([row["prompt"] for row in rows], _of_guard(name, settings["path"])[1])
    if known.all():
        problem = f"{settings['path']} was fitted on answers to all of its prompts, or to nearly the same"
        raise UserError("judge.calibration", problem, "give other labelled answers")
    return [row for row, seen in zip(rows, known, strict=True) if not seen]


def _of_guard(name: str, path: str) -> tuple[str, Any]:
    """For what it was fitted, and the signatures of its prompts."""
    if JUDGES[name].kind == "words":
        from alignment.judges.words_guard import WordsGuard

        words = WordsGuard.load(path)
        return words.record.get("fit", "benchmark"), words.seen
    from alignment.models.guard import Guard

    guard = Guard.load(path)
    return guard.meaning.fit, guard.seen


def _guards_model(path: str) -> str:
    from alignment.models.guard import Guard

    return Guard.load(path).meaning.fingerprint
