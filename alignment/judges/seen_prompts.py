"""No judge that was fitted may judge what it has seen: prompts it learned from, or activations that were trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.data.near_duplicates import near, signatures
from alignment.data.same_prompts import opening
from alignment.judges.choice import JUDGES
from alignment.models.source import source_at
from alignment.types import UserError

REMEDY = "fit one without them: +recipe=guard with this run's data and evaluation.sets, and guard.fit=judge"


def fitted_judges(names: Sequence[str]) -> list[str]:
    """Those that are fitted on labelled answers."""
    return [name for name in names if JUDGES[name].kind in ("words", "probe")]


def require_unseen(
    settings: Mapping[str, Any], names: Sequence[str], prompts: Sequence[str], trained: Mapping[str, str]
) -> None:
    """UserError for a judge of policies that was fitted on an answer to one of these prompts, or to nearly one, or on
    all answers there are, or that reads one of the trained models. trained: their fingerprints, by what names them."""
    known = None
    for name in fitted_judges(names):
        key, path = f"judge.{name}.path", settings[name]["path"]
        fit, seen, fingerprint_of_guard = _of_guard(name, path)
        reads = {fingerprint_of_guard}
        if settings[name].get("model"):
            reads.add(source_at(settings[name]["model"], f"judge.{name}.model").fingerprint)
        if fit != "judge":
            raise UserError(key, f"{path} was fitted on all labelled answers, to be compared and not to judge", REMEDY)
        for thing, fingerprint in trained.items():
            if fingerprint in reads:
                problem = f"{path} reads the activations of {thing}, the model that is judged"
                raise UserError(key, problem, "give a guard of the model before it was trained, or of another")
        known = signatures(list(dict.fromkeys(prompts))) if known is None else known
        if count := int(near(known, seen).sum()):
            problem = f"{path} was fitted on answers to {count} of this run's prompts, or to nearly the same"
            raise UserError(key, problem, REMEDY)


def unseen_rows(name: str, settings: Mapping[str, Any], rows: Sequence[dict]) -> list[dict]:
    """The labelled answers that say something of a judge: of one that was fitted, those to prompts that it doesn't
    know. UserError if it knows them all."""
    if name not in fitted_judges([name]):
        return list(rows)
    known = near(signatures([opening(row["prompt"])["content"] for row in rows]), _of_guard(name, settings["path"])[1])
    if known.all():
        problem = f"{settings['path']} was fitted on answers to all of its prompts, or to nearly the same"
        raise UserError("judge.calibration", problem, "give other labelled answers")
    return [row for row, seen in zip(rows, known, strict=True) if not seen]


def _of_guard(name: str, path: str) -> tuple[str, Any, str | None]:
    """For what it was fitted, the signatures of its prompts, and which model it reads."""
    if JUDGES[name].kind == "words":
        from alignment.judges.words_guard import WordsGuard

        words = WordsGuard.load(path)
        return words.record.get("fit", "benchmark"), words.seen, None
    from alignment.models.guard import Guard

    guard = Guard.load(path)
    return guard.meaning.fit, guard.seen, guard.meaning.fingerprint
