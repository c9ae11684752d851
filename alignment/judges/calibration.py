"""Labelled answers to compare a judge's verdicts with: a set by its name, or a file of the user's."""

from functools import partial
from pathlib import Path

import numpy as np

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded, answer, messages, usable_lines
from alignment.data.files import read_file
from alignment.data.labelled_sets import labelled_set
from alignment.judges.verdicts import REFUSAL_WORDS
from alignment.types import UserError

KEY = "judge.calibration"
LABELS = {
    "safe": {"toxic": False},
    "unsafe": {"toxic": True},
    **{word: {"refusal": refusal} for refusal, word in REFUSAL_WORDS.items()},
}


def calibration_rows(name: str, folder: str, count: int | None, seed: int) -> Loaded:
    """`count` rows drawn by the seed (None: all rows). A name with a suffix is a file's: prompt, response, label,
    and maybe the model that answered."""
    if Path(name).suffix:
        loaded = usable_lines(name, read_file(KEY, name), partial(_file_row, Path(name).stem))
    else:
        loaded = labelled_set(name, folder)
    if not loaded.rows:
        first = "".join(f": {row['reason']}" for row in loaded.quarantined[:1])
        raise UserError(KEY, f"{name} has no usable row{first}", "give labelled answers")
    if count is not None and count < len(loaded.rows):
        drawn = np.random.default_rng(seed).permutation(len(loaded.rows))[:count]
        loaded.rows = [loaded.rows[i] for i in sorted(drawn)]
    return loaded


def _file_row(file: str, line: int, row: dict) -> dict:
    prompt = messages(row.get("prompt"), "prompt", "user")
    label, model = row.get("label"), row.get("model")
    if not isinstance(label, str) or label.strip() not in LABELS:
        raise BadRow(f"label is {label!r}, not one of {', '.join(LABELS)}")
    return {
        "id": f"{file}-{line}",
        "source": f"{file}/{model}" if isinstance(model, str) and model else file,
        "prompt": prompt,
        "response": answer(row.get("response"), "response", prompt)[0]["content"],
        "toxic": None,
        "refusal": None,
        "category": None,
        **LABELS[label.strip()],
    }
