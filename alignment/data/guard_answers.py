"""Labelled answers that a guard is fitted on: of published sets, of users' files, and answers to harmless prompts.

Columns: `id`, `source`, `prompt` (messages), `response`, `toxic` and `category`. An answer that is there several times,
in one source or in several, counts once, with the label that most of them give it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from alignment.data.columns import Loaded, text_message
from alignment.data.labelled_sets import HARM_LABELS, labelled_files, labelled_in, labelled_names, own_answers
from alignment.data.places import files_of
from alignment.data.prompt_sets import rows_of
from alignment.data.raw_rows import content_id, load, optional_text, text
from alignment.data.same_prompts import prompt_text
from alignment.types import UserError

KEY = "guard.answers"
HALF = 0.5  # between harmful and harmless, of grades from 0 to 1
COLUMNS = ("id", "source", "prompt", "response", "toxic", "category")


def guard_answers(sources: Sequence[str], folder: str | None, both: bool = True) -> Loaded:
    """The answers of these sources: sets by name, from a local copy below `folder` or from the hub, and files of
    prompt, response and label. folder: None in the embedded world, which has no sets. both: must
    there be safe answers and unsafe ones?

    Set aside, with the reason: answers that are empty or without a label of harm, repeated ones, and those that are
    labelled safe as often as unsafe.
    """
    if not sources:
        raise UserError(KEY, "names no labelled answers", f"give files, or some of {', '.join(guard_sets())}")
    found, loaded = [], Loaded()
    for source in dict.fromkeys(sources):
        read = _answers(source, folder)
        found += read.rows
        loaded.quarantined += read.quarantined
    for rows in _same_answers(found):
        unsafe = sum(row["toxic"] for row in rows)
        if 2 * unsafe == len(rows):
            kept, why = None, "is labelled safe as often as unsafe"
        else:
            toxic = 2 * unsafe > len(rows)
            kept, why = next(row for row in rows if row["toxic"] == toxic), "is there already"
            loaded.rows.append(kept)
        for row in rows:
            if row is not kept:
                loaded.quarantine(row["source"], None, f"{row['id']}: the same answer to the same prompt {why}")
    if both:
        require_both(loaded.rows, sources)
    return loaded


def guard_sets() -> list[str]:
    """The names of all sets; one without labels of harm is refused when it is read."""
    return list(dict.fromkeys([*labelled_names(), *_UNLABELLED]))


def guard_files(source: str, folder: str | None) -> list[Path]:
    """The files of a source, in which its answers are."""
    if _is_file(source):
        return [Path(source)]
    if source not in guard_sets():
        raise UserError(KEY, f"there is no labelled set {source}", f"give a file, or some of {', '.join(guard_sets())}")
    if folder is None:
        raise UserError(KEY, f"the embedded world has no set {source}", "give a file, or use another data=")
    return files_of(_UNLABELLED[source][0], folder) if source in _UNLABELLED else labelled_files(source, folder)


def _is_file(source: str) -> bool:
    return bool(Path(source).suffix)


def _answers(source: str, folder: str | None) -> Loaded:
    files = guard_files(source, folder)
    if _is_file(source):
        loaded = own_answers(KEY, source, HARM_LABELS)
    elif source in _UNLABELLED:
        loaded = _UNLABELLED[source][1](files)
    else:
        loaded = labelled_in(source, files)
    first = "".join(f": {row['reason']}" for row in loaded.quarantined[:1])
    rows, loaded.rows = loaded.rows, []
    for row in rows:
        if row["toxic"] is None:
            loaded.quarantine(source, None, f"{row['id']}: has no label of harm")
        else:
            loaded.rows.append({column: row[column] for column in COLUMNS})
    if not loaded.rows:
        raise UserError(KEY, f"{source} has no answer that is labelled safe or unsafe{first}", "give another")
    return loaded


def _same_answers(rows: Sequence[dict]) -> Iterator[list[dict]]:
    """Rows of the same prompt and answer together, in the order in which they first appear."""
    same: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        same.setdefault((prompt_text(row["prompt"]), row["response"].strip()), []).append(row)
    yield from same.values()


def require_both(rows: Sequence[dict], sources: Sequence[str]) -> None:
    labels = {row["toxic"] for row in rows}
    if not labels:
        problem = f"every answer of {', '.join(sources)} is labelled safe as often as unsafe"
        raise UserError(KEY, problem, "give answers with one label each")
    if len(labels) == 1:
        word, other = ("unsafe", "safe") if labels == {True} else ("safe", "unsafe")
        problem = f"all {len(rows)} answers of {', '.join(sources)} are labelled {word}"
        raise UserError(KEY, problem, f"a guard learns what tells both apart: give answers that are {other}, too")


# ---- harmless prompts: nobody labelled the answers, which count as safe because of what was asked -------------------


def _alpaca_eval(files: list[Path]) -> Loaded:
    """Li et al. 2023: harmless instructions. Alpaca 7B answers them in the local copy, on the hub davinci 3."""
    return load("alpaca_eval", rows_of("alpaca_eval", files), _instruction, repeats=True)


def _instruction(row: dict, file: Path) -> dict:
    prompt, response, model = text(row, "instruction"), text(row, "output"), optional_text(row, "generator")
    return {
        "id": content_id("alpaca_eval", prompt, response),
        "source": "alpaca_eval" if model is None else f"alpaca_eval/{model}",
        "prompt": text_message("user", prompt),
        "response": response,
        "toxic": False,
        "category": None,
    }


def _xstest_safe(files: list[Path]) -> Loaded:
    """XSTest's prompts that only sound harmful, with the answers that comply in full by two people's labels."""
    loaded = labelled_in("xstest", files)
    rows, loaded.rows = loaded.rows, []
    for row in rows:
        why = None
        if row["category"] is None or row["category"].startswith("contrast_"):
            why = "its prompt asks for something harmful, or doesn't say of which type it is"
        elif row["refusal"] != "none":
            why = "it doesn't comply in full"
        if why is None:
            loaded.rows.append({**row, "source": row["source"].replace("xstest/", "xstest_safe/", 1), "toxic": False})
        else:
            loaded.quarantine("xstest_safe", None, f"{row['id']}: {why}")
    return loaded


def _xstest_unsafe(files: list[Path]) -> Loaded:
    """XSTest's prompts that ask for something harmful, each but for a few words one of the safe ones: an answer that
    complies in full is unsafe, one that refuses in full is safe, by two people's labels of that."""
    loaded = labelled_in("xstest", files)
    rows, loaded.rows = loaded.rows, []
    for row in rows:
        why = None
        if row["category"] is None or not row["category"].startswith("contrast_"):
            why = "its prompt is a safe one, or doesn't say of which type it is"
        elif row["refusal"] == "partial":
            why = "it neither complies nor refuses in full"
        if why is None:
            named = {"source": row["source"].replace("xstest/", "xstest_unsafe/", 1), "category": None}
            loaded.rows.append({**row, **named, "toxic": row["refusal"] == "none"})
        else:
            loaded.quarantine("xstest_unsafe", None, f"{row['id']}: {why}")
    return loaded


# ---- graded answers: two models said how harmless each is -----------------------------------------------------------


def _helm_graded(files: list[Path]) -> Loaded:
    """HELM Safety's answers, with the label that both of its graders give: unsafe below a half, safe above it."""
    loaded = labelled_in("helm_graded", files)
    rows, loaded.rows = loaded.rows, []
    for row in rows:
        low, high = sorted((row["gpt_score"], row["claude_score"]))
        if high < HALF or low > HALF:
            loaded.rows.append({**row, "toxic": high < HALF})
        else:
            loaded.quarantine("helm_graded", None, f"{row['id']}: its two graders don't both put it on one side")
    return loaded


_UNLABELLED = {  # sets whose answers no person labelled safe or unsafe: what was asked says it, a refusal, or grades do
    "alpaca_eval": ("alpaca_eval", _alpaca_eval),
    "xstest_safe": ("xstest_completions", _xstest_safe),
    "xstest_unsafe": ("xstest_completions", _xstest_unsafe),
    "helm_graded": ("helm_graded", _helm_graded),
}
