"""Labelled answers to compare a judge's verdicts with: a set by its name, or a file of the user's."""

from pathlib import Path

import numpy as np

from alignment.data.columns import Loaded
from alignment.data.labelled_sets import HARM_LABELS, labelled_set, own_answers
from alignment.judges.verdicts import REFUSAL_WORDS
from alignment.types import UserError

KEY = "judge.calibration"
LABELS = {**HARM_LABELS, **{word: {"refusal": refusal} for refusal, word in REFUSAL_WORDS.items()}}


def calibration_rows(name: str, folder: str, count: int | None, seed: int) -> Loaded:
    """`count` rows drawn by the seed (None: all rows). A name with a suffix is a file's: prompt, response, label,
    and maybe the model that answered."""
    loaded = own_answers(KEY, name, LABELS) if Path(name).suffix else labelled_set(name, folder)
    if not loaded.rows:
        first = "".join(f": {row['reason']}" for row in loaded.quarantined[:1])
        raise UserError(KEY, f"{name} has no usable row{first}", "give labelled answers")
    if count is not None and count < len(loaded.rows):
        drawn = np.random.default_rng(seed).permutation(len(loaded.rows))[:count]
        loaded.rows = [loaded.rows[i] for i in sorted(drawn)]
    return loaded
