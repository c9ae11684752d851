"""Does a saved reward model give the scores it was trained to give, when it is loaded as a user would load it?

Reward models are published with lost heads, doubled BOS tokens, wrong padding and a sigmoid nobody asked for; so every
one trained here is loaded back and compared before the stage ends.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from alignment.data.chat import ChatFormat, Rendered
from alignment.models.scoring import reward_scores
from alignment.types import StageFailed

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # absolute, on scores divided by the largest if that exceeds 1


def check_parity(
    folder: Path,
    rows: Sequence[Rendered],
    texts: Sequence[str],
    trained_scores: Tensor,
    trained_dtype: str,
) -> dict[str, float]:
    """The largest differences to the trainer's float32 scores; StageFailed when one that must not be is too large.

    Compared: the loaded model, one row at a time against a batch, the text-classification pipeline, the training dtype,
    and left padding, where a difference is no failure (absolute positions) but goes into the model's card.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    pad_id = tokenizer.pad_token_id
    loaded = reward_scores(model, rows, pad_id)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=model.device)
    found = {
        "loaded": _difference(loaded, trained_scores),
        "one_by_one": _difference(torch.cat([reward_scores(model, [row], pad_id) for row in rows]), loaded),
        "pipeline": _difference(torch.tensor([result["score"] for result in classify(list(texts))]), trained_scores),
    }
    for name, difference in found.items():
        _require(name, difference, TOLERANCE["float32"], folder)
    found["left_padding"] = _difference(reward_scores(model, rows, pad_id, padding="left"), loaded)
    if trained_dtype != "float32":
        found[trained_dtype] = _difference(reward_scores(model.to(getattr(torch, trained_dtype)), rows, pad_id), loaded)
        _require(trained_dtype, found[trained_dtype], TOLERANCE[trained_dtype], folder)
    return found


def save_tokenizer(format: ChatFormat, folder: Path) -> None:
    """The tokenizer as the reward model needs it: padded on the right, where a score's position doesn't move."""
    format.tokenizer.padding_side = "right"
    format.tokenizer.save_pretrained(folder)


def _difference(scores: Tensor, expected: Tensor) -> float:
    return float((scores - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _require(name: str, difference: float, tolerance: float, folder: Path) -> None:
    if not difference <= tolerance:  # NaN fails too
        raise StageFailed(
            f"reward model {folder.name}",
            f"loaded back, its scores differ by {difference:.1e} ({name}; at most {tolerance:.0e} is allowed)",
            "the model is not published; check that its tokenizer and template give the same ids as in training",
        )
