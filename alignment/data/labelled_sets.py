"""Answers that people (or other judges) have labelled, one function per published set, to check judges against.

Columns: `id`, `source` (the set, and the model that answered where the set names it), `prompt` (messages), `response`,
`toxic`, `refusal` and `category`; a label that the set doesn't have is None. An answer that several people labelled has
a row for each of them.
"""

from collections.abc import Iterator
from pathlib import Path

from alignment.data.cells import BadRow, as_float, shown
from alignment.data.columns import Loaded, text_message
from alignment.data.places import files_of
from alignment.data.prompt_sets import rows_of
from alignment.data.raw_rows import content_id, load, optional_text, text, unfolded, yes_or_no
from alignment.types import UserError

_REFUSALS = {"1_full_compliance": "none", "3_partial_refusal": "partial", "2_full_refusal": "full"}
# The kinds of action in Do-Not-Answer that certainly are a refusal or none: 0, the answer says that it can't or won't;
# 5, it does what it is asked. Those between rebut, see two sides, give general advice or disclaim: people who label
# refusals put such answers on either side.
_ACTIONS = {"0": "full", "5": "none"}


def labelled_set(name: str, folder: str) -> Loaded:
    """A set by its name, from a local copy below `folder`, or from the hub."""
    return labelled_in(name, labelled_files(name, folder))


def labelled_in(name: str, files: list[Path]) -> Loaded:
    """The answers of a set in these files of it."""
    _, unfold, make = _ROWS[name]
    return load(name, unfolded(rows_of(name, files), unfold), make, repeats=True)


def labelled_files(name: str, folder: str) -> list[Path]:
    if name not in _ROWS:
        raise UserError(name, "there is no labelled set of that name", f"give one of {', '.join(_ROWS)}")
    return files_of(_ROWS[name][0], folder)


def _labelled(source: str, prompt: str, response: str, **labels: bool | str | float | None) -> dict:
    """A row with these labels; every other label is None."""
    return {
        "id": content_id(source, prompt, response),
        "source": source,
        "prompt": text_message("user", prompt),
        "response": response,
        "toxic": None,
        "refusal": None,
        "category": None,
        **labels,
    }


def beavertails_answer(row: dict) -> tuple[str, str, bool, str | None]:
    """Ji et al. 2023: a question, its answer, whether the answer is unsafe, and the kinds of harm in it.

    The hub's rows have `is_safe` and 14 categories, each true or false; the 4,000 rows of Safe-RLHF's classifier data
    have `label`, 1 for unsafe.
    """
    column = "is_safe" if "is_safe" in row else "label"
    label = yes_or_no(row, column)
    if label is None:
        raise BadRow(f"{column} is empty")
    categories = row.get("category") if isinstance(row.get("category"), dict) else {}
    named = {"category": "; ".join(sorted(category for category, applies in categories.items() if applies is True))}
    prompt, response = text(row, "prompt", "question"), text(row, "response", "answer")
    return prompt, response, label == (column == "label"), optional_text(named, "category")


def _beavertails(row: dict, file: Path) -> dict:
    prompt, response, toxic, category = beavertails_answer(row)
    return _labelled("beavertails", prompt, response, toxic=toxic, category=category)


def _xstest(row: dict, file: Path) -> dict:
    """Röttger et al. 2024: the label that two people agreed on. Files are named after the model that answered."""
    label = row.get("final_label")
    if not isinstance(label, str) or label not in _REFUSALS:
        raise BadRow(f"final_label is {shown(label)}, not one of {', '.join(_REFUSALS)}")
    model = file.stem.removeprefix("xstest_v2_completions_").partition("-0")[0]  # the hub: <model>-00000-of-00001
    labels = {"refusal": _REFUSALS[label], "category": optional_text(row, "type")}
    return _labelled(f"xstest/{model}", text(row, "prompt"), text(row, "completion"), **labels)


def _six_answers(row: dict) -> Iterator[dict]:
    models = [column.removesuffix("_response") for column in row if column.endswith("_response")]
    if not models:
        yield row
    for model in models:
        answer = {part: row.get(f"{model}_{part}") for part in ("response", "harmful", "action")}
        yield {"model": model, **{k: row[k] for k in ("question", "types_of_harm") if k in row}, **answer}


def _do_not_answer(row: dict, file: Path) -> dict:
    """Wang et al. 2023: six models' answers, with people's labels of their harm and of their kind of action."""
    action = str(row.get("action")).removesuffix(".0")
    if action not in ("0", "1", "2", "3", "4", "5", "None", "", "nan"):
        raise BadRow(f"action is {shown(row.get('action'))}, not 0 to 5")
    labels = {"toxic": yes_or_no(row, "harmful"), "refusal": _ACTIONS.get(action)}
    labels["category"] = optional_text(row, "types_of_harm")
    return _labelled(f"do_not_answer/{text(row, 'model')}", text(row, "question"), text(row, "response"), **labels)


def helm_answer(row: dict) -> tuple[str, str, dict[str, float]]:
    """HELM Safety: a prompt, an answer, and two models' grades of it in quarter steps, 1 for harmless."""
    grades = {judge: as_float(row.get(judge)) for judge in ("gpt_score", "claude_score")}
    for judge, grade in grades.items():
        if grade not in (0, 0.25, 0.5, 0.75, 1):
            raise BadRow(f"{judge} is {shown(row.get(judge))}, not one of 0, 0.25, 0.5, 0.75, 1")
    return text(row, "prompt"), text(row, "response"), grades


def _helm_graded(row: dict, file: Path) -> dict:
    """HELM Safety's answers, which no person labelled: `toxic` is None."""
    prompt, response, grades = helm_answer(row)
    return _labelled(f"helm_graded/{text(row, 'model')}", prompt, response, **grades)


_ROWS = {
    "beavertails": ("beavertails", lambda row: [row], _beavertails),
    "xstest": ("xstest_completions", lambda row: [row], _xstest),
    "do_not_answer": ("do_not_answer", _six_answers, _do_not_answer),
    "helm_graded": ("helm_graded", lambda row: [row], _helm_graded),
}
