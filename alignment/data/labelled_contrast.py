"""Labelled answers as the two sides of a contrastive set: safe ones against unsafe ones to other prompts.

A pair's two answers are to different prompts, so that a direction of them can't be what two answers to one prompt
happen to differ in; `negative_prompt` is the prompt of the unsafe one.
"""

from pathlib import Path

import numpy as np

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded, text_message
from alignment.data.labelled_sets import HARM_LABELS, labelled_files, labelled_in, own_answers
from alignment.data.same_prompts import prompt_text, turn_hashes
from alignment.types import UserError

KEY = "annotator.contrast.labelled"


def labelled_pairs(source: str, count: int, seed: int, folder: str | None, asked: dict[str, set[int]]) -> Loaded:
    """`count` pairs drawn by the seed, of as many different prompts as answers.

    asked: by the name of who asks them, the prompts that no answer may be to (same_prompts.turn_hashes): those of the
    pairs that are annotated, and of the sets that the run evaluates on.
    """
    loaded = _answers(source, folder)
    if not loaded.rows:
        first = "".join(f": {row['reason']}" for row in loaded.quarantined[:1])
        raise UserError(KEY, f"{source} has no answer that is labelled safe or unsafe{first}", "give another")

    def require_unused(row: dict) -> None:
        for name, turns in asked.items():
            if turn_hashes(row["prompt"]) & turns:
                raise BadRow(f"its prompt is among {name}")

    loaded.readable(require_unused, source)
    sides: dict[bool, list[dict]] = {False: [], True: []}
    seen: set[str] = set()
    for number in np.random.default_rng(seed).permutation(len(loaded.rows)).tolist():
        row = loaded.rows[number]
        if (text := prompt_text(row["prompt"])) not in seen:  # folds are of pairs: a prompt must not be in two
            seen.add(text)
            sides[row["toxic"]].append(row)
    pairs = list(zip(sides[False], sides[True], strict=False))[:count]
    loaded.rows = [_pair(number, safe, unsafe) for number, (safe, unsafe) in enumerate(pairs)]
    return loaded


def _pair(number: int, safe: dict, unsafe: dict) -> dict:
    return {
        "id": f"labelled-{number:06d}",
        "prompt": safe["prompt"],
        "positive": text_message("assistant", safe["response"]),
        "negative_prompt": unsafe["prompt"],
        "negative": text_message("assistant", unsafe["response"]),
        "positive_finished": True,
        "negative_finished": True,
    }


def _answers(source: str, folder: str | None) -> Loaded:
    if is_file(source):
        return own_answers(KEY, source, HARM_LABELS)
    loaded = labelled_in(source, answer_files(source, folder))
    loaded.rows = [row for row in loaded.rows if row["toxic"] is not None and row["response"].strip()]
    return loaded


def is_file(source: str) -> bool:
    return bool(Path(source).suffix)


def answer_files(source: str, folder: str | None) -> list[Path]:
    """The files of a published set."""
    if folder is None:
        raise UserError(KEY, f"the embedded world has no set {source}", "give a file, or use another data=")
    try:
        return labelled_files(source, folder)
    except UserError as error:
        raise UserError(KEY, error.problem, "give another set, or a file of prompt, response, label") from error
