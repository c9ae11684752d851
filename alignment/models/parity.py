"""Does a saved reward model give the scores it was trained to give, when it is loaded as a user would load it?

Reward models are published with lost heads, doubled BOS tokens, wrong padding and a sigmoid nobody asked for; so every
one trained here is loaded back and compared before the stage ends. Like is compared with like: in float32 where the
trained weights are those that are saved; else what rounding does to this very model says how far scores may lie apart.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, pipeline

from alignment.data.chat import ChatFormat, Rendered
from alignment.models.scoring import reward_scores
from alignment.types import StageFailed

# Differences are absolute, on scores divided by the largest if that exceeds 1.
LIMIT = 1e-4  # what another order of float32 sums leaves far below
ROUNDINGS = (
    4  # a model that rounds elsewhere lies about as far from float32 as this one in bfloat16: at most this often
)


@dataclass(frozen=True)
class TrainedScores:
    """What a trained model said of some answers before it was loaded back.

    exact: in float32, by the weights that are saved. Not so where the ranks compute with split weights in bfloat16, or
        learned adapters on rounded ones.
    reloaded, unmerged: of adapters that learned on weights in 4 bits, and are saved merged into whole ones: what they
        say loaded back, on weights in 4 bits and on whole ones.
    """

    scores: Tensor
    exact: bool
    reloaded: Tensor | None = None
    unmerged: Tensor | None = None


def check_parity(
    model: PreTrainedModel,
    folder: Path,
    rows: Sequence[Rendered],
    texts: Sequence[str],
    trained: TrainedScores,
    template_texts: Sequence[str] | None = None,
) -> dict[str, float]:
    """The largest differences between ways to score; StageFailed when one that must not be is too large.

    Compared with the loaded model in float32: the trained one, one row at a time, the text-classification pipeline;
    left padding, bfloat16, and texts as the template itself writes them, where a difference is no failure but goes into
    the model's card. The model is in bfloat16 afterwards.

    template_texts: those, where they aren't `texts`.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pad_id = tokenizer.pad_token_id
    loaded = reward_scores(model, rows, pad_id)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=model.device)

    def through_pipeline(texts: Sequence[str]) -> float:
        return _difference(torch.tensor([result["score"] for result in classify(list(texts))]), loaded)

    found = {
        "loaded": _difference(loaded, trained.scores),
        "one_by_one": _difference(torch.cat([reward_scores(model, [row], pad_id) for row in rows]), loaded),
        "pipeline": through_pipeline(texts),
        **({} if template_texts is None else {"chat_template": through_pipeline(template_texts)}),
        "left_padding": _difference(reward_scores(model, rows, pad_id, padding="left"), loaded),
        "bfloat16": _difference(reward_scores(_rounded(model), rows, pad_id), loaded),
    }
    rounding = LIMIT + ROUNDINGS * found["bfloat16"]
    limits = {"one_by_one": LIMIT, "pipeline": LIMIT, "loaded": LIMIT if trained.exact else rounding}
    if trained.reloaded is not None:
        del limits["loaded"]  # it is what 4 bits changed
        found |= {
            "reloaded_in_4_bits": _difference(trained.reloaded, trained.scores),
            "unmerged": _difference(trained.unmerged, loaded),
        }
        limits |= {"reloaded_in_4_bits": rounding, "unmerged": LIMIT}
    for name, limit in limits.items():
        _require(name, found[name], limit, folder)
    return found


def trained_scores(model: PreTrainedModel, rows: Sequence[Rendered], pad_id: int) -> Tensor:
    """Of a model as it was trained: where its parts are of different precisions, in autocast, as training computes."""
    kinds = {one.dtype for one in model.parameters() if one.is_floating_point()}
    half = next((kind for kind in kinds if kind != torch.float32), None)
    with torch.autocast(model.device.type, half) if len(kinds) > 1 else nullcontext():
        return reward_scores(model, rows, pad_id)


def with_adapters(base: PreTrainedModel, adapters: Path, rows: Sequence[Rendered], pad_id: int) -> Tensor:
    """Scores of a base model with adapters, not merged."""
    model = PeftModel.from_pretrained(base, adapters).eval()
    for name, parameter in model.named_parameters():  # as trainers have them (adapters_in_float32)
        if parameter.is_floating_point() and ("lora_" in name or "modules_to_save" in name):
            parameter.data = parameter.data.float()
    return trained_scores(model, rows, pad_id)


def save_tokenizer(format: ChatFormat, folder: Path) -> None:
    """The tokenizer as the reward model needs it: padded on the right, where a score's position doesn't move."""
    format.tokenizer.padding_side = "right"
    format.tokenizer.save_pretrained(folder)


def _rounded(model: PreTrainedModel) -> PreTrainedModel:
    """The weights in bfloat16, as from_pretrained loads them: buffers stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def _difference(scores: Tensor, expected: Tensor) -> float:
    return float((scores - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _require(name: str, difference: float, limit: float, folder: Path) -> None:
    if not difference <= limit:  # NaN fails too
        raise StageFailed(
            f"reward model {folder.name}",
            f"loaded back, its scores differ by {difference:.1e} ({name}; at most {limit:.0e} is allowed)",
            "the model is not published; check that its tokenizer and template give the same ids as in training",
        )
