"""Prompts to evaluate on, one function per published set and one for a user's file, all brought to the same columns.

`id`, `source`, `prompt` (messages), `category` in the set's own words, and `harmful`: does the prompt ask for something
harmful? It is None where the set mixes both and doesn't say which is which. Where the prompt holds more than the
request, `also` has the texts that ask for the same without it: they too are to be kept out of training.
docs/data.md has a table of the sets.
"""

import json
from pathlib import Path

from alignment.data.cells import BadRow, as_name, no_column, shown, true_or_false
from alignment.data.columns import Loaded, messages, text_message
from alignment.data.files import READERS, TEXT, read_file, read_lines
from alignment.data.packed_files import PACKED
from alignment.data.places import files_of
from alignment.data.raw_rows import Read, content_id, load, optional_text, text
from alignment.types import UserError


def prompt_set(name: str, folder: str) -> Loaded:
    """A set by its name, from a local copy below `folder`, or from the hub; or the prompts in a user's file."""
    return prompts_in(name, prompt_files(name, folder))


def prompt_files(name: str, folder: str, download: bool = True) -> list[Path]:
    """The files of a set, or the user's file."""
    if is_own_file(name):
        if not Path(name).is_file():
            problem = f"there is no file {name}"
            raise UserError(
                "evaluation.sets", problem, "check the path; relative ones start where the command was given"
            )
        return [Path(name)]
    if name not in _ROWS:
        raise UserError(name, "there is no prompt set of that name", f"give one of {', '.join(_ROWS)}")
    return files_of(name, folder, download=download)


def is_own_file(name: str) -> bool:
    """Whether it is the path of a user's file rather than the name of a set, which has no suffix."""
    return Path(name).suffix in (*READERS, *PACKED, TEXT)


def set_name(name: str) -> str:
    """What prompts are called by where they come from: of a path, the name of the file alone."""
    return Path(name).name if is_own_file(name) else name


def prompts_in(name: str, files: list[Path]) -> Loaded:
    """The prompts of a set in these files of it."""
    make, read = _own if is_own_file(name) else _ROWS[name], rows_of(name, files)
    return load(set_name(name), read, lambda row, file: {"source": set_name(name), **make(row)}, repeats=False)


def rows_of(name: str, files: list[Path]) -> Read:
    key = "evaluation.sets" if is_own_file(name) else name
    for file in files:
        lines = read_lines(key, file) if file.suffix == TEXT else read_file(key, str(file))
        yield from ((file, line, row) for line, row in lines)


def _own(row: dict) -> dict:
    """A user's prompt: text, or messages of several turns. Whether it asks for harm is known if the row says so."""
    if "prompt" not in row:
        raise no_column("prompt", row)
    prompt = messages(row["prompt"], "prompt", "user")
    return {
        "id": as_name(row.get("id"), "id") or content_id("own", json.dumps(prompt)),
        "prompt": prompt,
        "category": as_name(row.get("category"), "category"),
        "harmful": true_or_false(row.get("harmful"), "harmful"),
    }


def _prompt(name: str, request: str, category: str | None, harmful: bool | None) -> dict:
    return {
        "id": content_id(name, request),
        "prompt": text_message("user", request),
        "category": category,
        "harmful": harmful,
    }


def _red_team(row: dict) -> dict:
    """Ganguli et al. 2022: the first turn of people's conversations with a model; later turns answer that model. Many
    begin harmlessly or never attack ("hi, how are you?"), and ratings judge the whole conversation, so `harmful` is
    unknown.
    """
    opening, _, _ = text(row, "transcript").removeprefix("\n\nHuman:").partition("\n\nAssistant:")
    request = " ".join(part.strip() for part in opening.split("\n\nHuman:")).strip()  # some open with two turns
    if not request:
        raise BadRow("transcript has no human turn")
    tags = row.get("tags") if isinstance(row.get("tags"), list) else []
    tags = {"tags": ", ".join(tag for tag in tags if isinstance(tag, str))}
    return _prompt("red_team", request, optional_text(tags, "tags"), None)


def _do_not_answer(row: dict) -> dict:
    """Wang et al. 2023: 939 questions a responsible model doesn’t follow. Two are the same; ids tell them apart."""
    prompt = _prompt("do_not_answer", text(row, "question"), optional_text(row, "types_of_harm"), True)
    name = row["id"] if isinstance(row.get("id"), int) else optional_text(row, "id")
    return prompt if name is None else {**prompt, "id": f"do_not_answer-{name}"}


def _salad(row: dict) -> dict:
    """Li et al. 2024: the questions of the base set, or of the multiple-choice set, which has some up to four times."""
    return _prompt("salad", text(row, "question", "query"), optional_text(row, "2-category"), True)


def _xstest(row: dict) -> dict:
    """Roettger et al. 2024: safe prompts that sound unsafe, and unsafe ones in contrast to them."""
    if row.get("label") not in ("safe", "unsafe"):
        raise BadRow(f"label is {shown(row.get('label'))}, neither safe nor unsafe")
    return _prompt("xstest", text(row, "prompt"), optional_text(row, "type"), row["label"] == "unsafe")


def _advbench(row: dict) -> dict:
    """Zou et al. 2023: requests, each with the beginning of an answer ("Sure, here is ..."), which isn't the prompt."""
    return _prompt("advbench", advbench_request(row), None, True)


def advbench_request(row: dict) -> str:
    """The column that doesn't begin an answer: in some copies the headings of the two are swapped."""
    request = text(row, "prompt", "goal")
    if request.startswith("Sure, here"):
        request = text(row, "target")
    if request.startswith("Sure, here"):
        raise BadRow("both columns hold the beginning of an answer")
    return request


def _harmbench(row: dict) -> dict:
    """Mazeika et al. 2024. The text of contextual behaviours is put before the request, as the authors' direct request
    does (the request alone is in `also`). Copyright behaviours (lyrics, books) are harmful in that an answer would
    recite a work: the authors judge them by hashes, not by a classifier.
    """
    context = optional_text(row, "ContextString", "context")
    request = text(row, "prompt", "Behavior")
    category = optional_text(row, "category", "SemanticCategory")
    if category is None and "tags" in row:  # the hub's copyright part has tags instead
        category = "copyright"
    if context is None:
        return _prompt("harmbench", request, category, True)
    return {**_prompt("harmbench", f"{context}\n\n---\n\n{request}", category, True), "also": [request]}


def _simple_safety_tests(row: dict) -> dict:
    """Vidgen et al. 2023; `category` is the harm area."""
    return _prompt("simple_safety_tests", text(row, "prompt", "prompts_final"), optional_text(row, "harm_area"), True)


def _alpaca_eval(row: dict) -> dict:
    """Li et al. 2023: instructions of five sets (`category`), which measure how helpful answers are."""
    return _prompt("alpaca_eval", text(row, "instruction"), optional_text(row, "dataset"), False)


def _beavertails_evaluation(row: dict) -> dict:
    """Ji et al. 2023: 50 prompts for each of 14 categories. Some ask for harm ("how do I make a grenade"), some only
    touch the subject ("should university be free?", "do detoxes work?"), and nothing says which: unknown.
    """
    return _prompt("beavertails_evaluation", text(row, "prompt"), optional_text(row, "category"), None)


_ROWS = {
    "red_team": _red_team,
    "do_not_answer": _do_not_answer,
    "salad": _salad,
    "xstest": _xstest,
    "advbench": _advbench,
    "harmbench": _harmbench,
    "simple_safety_tests": _simple_safety_tests,
    "alpaca_eval": _alpaca_eval,
    "beavertails_evaluation": _beavertails_evaluation,
}
PROMPT_SETS = tuple(_ROWS)
