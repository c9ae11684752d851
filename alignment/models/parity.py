"""Does a saved reward model give the scores it was trained to give, when it is loaded as a user would load it?

Reward models are published with lost heads, doubled BOS tokens, wrong padding and a sigmoid nobody asked for; so every
model trained here is loaded back and compared before the stage ends. Where the weights that are saved are those that
were trained, scores must agree in float32; else by as much as rounding moves the scores of this very model.
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
LIMIT = 1e-4  # another order of float32 sums stays far below it
# A model that rounds elsewhere differs from float32 about as much as this one does in bfloat16: at most so many times.
ROUNDINGS = 4
REMEDY = "the model is not published; check that its tokenizer and template give the same ids as in training"


@dataclass(frozen=True)
class TrainedScores:
    """The scores of some answers by a trained model, before it is loaded back.

    exact: in float32, by the weights that are saved. Not so where the ranks compute with split weights in bfloat16, or
        where adapters were trained on rounded weights, or merged into weights that were rounded then.
    rounded: were the weights rounded when adapters were merged into them?
    unrounded: the scores before the weights were rounded to the precision in which they are saved, where they were.
    reloaded, unmerged: only of adapters that were trained on weights in 4 bits, and are saved merged into whole ones:
        the adapters' scores, loaded back on weights in 4 bits and on whole ones.
    """

    scores: Tensor
    exact: bool
    rounded: bool = False
    unrounded: Tensor | None = None
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
    """The largest difference from the loaded model's scores in float32, for each other way to score the same answers.

    StageFailed where the trained model, one row at a time, or the text-classification pipeline differs too much. Left
    padding, bfloat16, and texts as the template writes them (`template_texts`, None where they are `texts`) may differ:
    the model's card says by how much. The model is in bfloat16 afterwards.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pad_id = tokenizer.pad_token_id
    loaded = reward_scores(model, rows, pad_id)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=model.device)

    def through_pipeline(texts: Sequence[str]) -> float:
        return _difference(torch.tensor([result["score"] for result in classify(list(texts))]), loaded)

    differences = {
        "loaded": _difference(loaded, trained.scores),
        "one_by_one": _difference(torch.cat([reward_scores(model, [row], pad_id) for row in rows]), loaded),
        "pipeline": through_pipeline(texts),
        **({} if template_texts is None else {"chat_template": through_pipeline(template_texts)}),
        "left_padding": _difference(reward_scores(model, rows, pad_id, padding="left"), loaded),
        "bfloat16": _difference(reward_scores(in_bfloat16(model), rows, pad_id), loaded),
    }
    if trained.unrounded is not None:
        differences["unrounded"] = _difference(loaded, trained.unrounded)
    rounding = LIMIT + ROUNDINGS * differences["bfloat16"]
    limits = {"one_by_one": LIMIT, "pipeline": LIMIT, "loaded": LIMIT if trained.exact else rounding}
    if trained.reloaded is not None:
        del limits["loaded"]  # that difference is what 4 bits changed
        differences |= {
            "reloaded_in_4_bits": _difference(trained.reloaded, trained.scores),
            "unmerged": _difference(trained.unmerged, loaded),
        }
        limits |= {"reloaded_in_4_bits": rounding, "unmerged": rounding if trained.rounded else LIMIT}
    for name, limit in limits.items():
        difference = differences[name]
        if not difference <= limit:  # NaN fails too
            problem = f"loaded back, its scores differ by {difference:.1e} ({name}; at most {limit:.0e} is allowed)"
            raise StageFailed(f"reward model {folder.name}", problem, REMEDY)
    return differences


def trained_scores(model: PreTrainedModel, rows: Sequence[Rendered], pad_id: int) -> Tensor:
    """Scores as training computes them: by autocast where the model's parts have different precisions."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    half = next((dtype for dtype in dtypes if dtype != torch.float32), None)
    with torch.autocast(model.device.type, half) if len(dtypes) > 1 else nullcontext():
        return reward_scores(model, rows, pad_id)


def with_adapters(base: PreTrainedModel, adapters: Path, rows: Sequence[Rendered], pad_id: int) -> Tensor:
    """Scores of a base model with adapters, not merged."""
    model = PeftModel.from_pretrained(base, adapters).eval()
    for name, parameter in model.named_parameters():  # as trainers have them (restore_adapters)
        if parameter.is_floating_point() and ("lora_" in name or "modules_to_save" in name):
            parameter.data = parameter.data.float()
    return trained_scores(model, rows, pad_id)


def save_tokenizer(format: ChatFormat, folder: Path) -> None:
    """Saves the tokenizer as a reward model needs it: with padding on the right, which moves no token's position."""
    format.tokenizer.padding_side = "right"
    format.tokenizer.save_pretrained(folder)


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with its weights in bfloat16, and its buffers as they are: so does from_pretrained load them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def _difference(scores: Tensor, expected: Tensor) -> float:
    return float((scores - expected).abs().max() / max(1.0, float(expected.abs().max())))
