"""Answers that people (or other judges) have labelled, one function per published set and one for a user's file.

Columns: `id`, `source` (the set, and the model that answered where the set names it), `prompt` (messages), `response`,
`toxic`, `refusal` and `category`; a label that the set doesn't have is None. An answer that several people labelled has
a row for each of them.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from alignment.data.cells import BadRow, as_float, shown
from alignment.data.columns import Loaded, answer, messages, text_message, usable_lines
from alignment.data.files import read_file
from alignment.data.places import files_of
from alignment.data.prompt_sets import rows_of
from alignment.data.raw_rows import content_id, load, optional_text, text, unfolded, yes_or_no
from alignment.types import Message, UserError

HARM_LABELS = {"safe": {"toxic": False}, "unsafe": {"toxic": True}}
_NUMBERS = {"1": "unsafe", "1.0": "unsafe", "true": "unsafe", "0": "safe", "0.0": "safe", "false": "safe"}
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


def labelled_names() -> list[str]:
    return list(_ROWS)


def labelled_files(name: str, folder: str) -> list[Path]:
    if name not in _ROWS:
        raise UserError(name, "there is no labelled set of that name", f"give one of {', '.join(_ROWS)}")
    return files_of(_ROWS[name][0], folder)


def own_answers(key: str, file: str, labels: Mapping[str, dict]) -> Loaded:
    """A user's file of prompt, response and label. labels: the words that a label may be, and what each says; 1 and
    true are unsafe, 0 and false safe. key: of the setting that names the file, for errors."""
    return usable_lines(file, read_file(key, file), partial(_file_row, file, labels))


def _file_row(file: str, labels: Mapping[str, dict], line: int, row: dict) -> dict:
    prompt, label = messages(row.get("prompt"), "prompt", "user"), row.get("label")
    word = str(label).strip().lower()
    word = _NUMBERS.get(word, word)
    if word not in labels:
        raise BadRow(f"label is {shown(label)}, not one of {', '.join(labels)}, 1, 0, true, false")
    response = answer(row.get("response"), "response", prompt)[0]["content"]
    model = row.get("model")
    source = f"{Path(file).name}/{model}" if isinstance(model, str) and model else Path(file).name
    return {**_columns(source, prompt, response, labels[word]), "id": f"{Path(file).stem}-{line}"}


def _columns(
    source: str, prompt: list[Message], response: str, labels: Mapping[str, bool | str | float | None]
) -> dict:
    """A row with these labels; every other label is None."""
    row = {"source": source, "prompt": prompt, "response": response}
    return {**row, "toxic": None, "refusal": None, "category": None, **labels}


def _labelled(source: str, prompt: str, response: str, **labels: bool | str | float | None) -> dict:
    row = _columns(source, text_message("user", prompt), response, labels)
    return {"id": content_id(source, prompt, response), **row}


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


def _both_answers(row: dict) -> Iterator[dict]:
    """PKU-SafeRLHF (Ji et al. 2024): the two answers of a row, each with its own label. There is also a release that
    has a safe and an unsafe one in this order."""
    both = row.get("response")
    if isinstance(both, list) and len(both) == 2:
        for response, safe in zip(both, (True, False), strict=True):
            yield {"prompt": row.get("prompt"), "response": response, "is_safe": safe}
    elif "response_0" in row:
        for number in (0, 1):
            labels = {"is_safe": f"is_response_{number}_safe", "category": f"response_{number}_harm_category"}
            own = {ours: row.get(theirs) for ours, theirs in labels.items()}
            yield {"prompt": row.get("prompt"), "response": row.get(f"response_{number}"), **own}
    else:
        yield row


def _pku_saferlhf(row: dict, file: Path) -> dict:
    """An answer that is in several pairs has a row for each of them."""
    prompt, response, toxic, category = beavertails_answer(row)
    return _labelled("pku_saferlhf", prompt, response, toxic=toxic, category=category)


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
    "pku_saferlhf": ("pku_saferlhf", _both_answers, _pku_saferlhf),
    "xstest": ("xstest_completions", lambda row: [row], _xstest),
    "do_not_answer": ("do_not_answer", _six_answers, _do_not_answer),
    "helm_graded": ("helm_graded", lambda row: [row], _helm_graded),
}
