"""What a model gives for the answers in a batch of rows (packing.py): log-probabilities, or rewards.

The language-model head is computed where it predicts an answer's token and nowhere else, in tiles, without keeping
logits. It has to run inside the model's forward (ZeRO-3 and FSDP gather weights there), so the instance's forward is
replaced by one that can do this too, as TRL's add_fused_lm_head does.

Two arguments name a model twice: `model` as training wraps it (DDP, DeepSpeed, FSDP), `inner` without the wrapping.
"""

from collections.abc import Mapping
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import maybe_gather_lm_head_ctx

from alignment.models.activations import network_only_at
from alignment.models.architecture import backbone, decoder_blocks, output_head, without_adapters
from alignment.models.lower_states import StoredStates
from alignment.models.packing import Item, Layout
from alignment.models.packing_check import tolerance

TILE = {"cpu": 4096, "cuda": 32768}  # tokens of the vocabulary at a time: on a CPU, what its cache holds
TRIED = 6  # tokens of the text on which a head is tried


def add_completion_head(model: PreTrainedModel) -> None:
    """model(..., predictors=, targets=) then gives the float32 log-probability of every target, as one vector.

    A model whose logits aren't what output_head says they are stays as it is, and TRL's own head computes them; where
    the weights are split over ranks nothing can be computed yet, and what output_head says is taken.
    """
    model = without_adapters(model)
    head = output_head(model)
    if head is None:
        return
    own_forward, scale, softcap = model.forward, head.scale, head.softcap

    @wraps(own_forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        predictors: Tensor | None = None,
        targets: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if predictors is None:
            return own_forward(*args, **kwargs)
        hidden = backbone(self)(*args, **kwargs).last_hidden_state
        head = self.get_output_embeddings()
        weight, bias = _whole(head.weight), _whole(getattr(head, "bias", None))
        hidden = hidden.flatten(0, 1)[predictors]
        tile = TILE.get(hidden.device.type, TILE["cuda"])
        with maybe_gather_lm_head_ctx(weight, bias):
            # in float32 on a CPU, TRL's function spends more time on copies than on products
            float32 = hidden.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
            if hidden.device.type == "cpu" and float32 and bias is None and softcap is None:
                return TargetLogProbs.apply(hidden if scale == 1 else hidden * scale, weight, targets, tile)
            arguments = (hidden, weight, bias, targets, 1.0, tile, softcap, scale, ("log_probs",))
            return ChunkedLogProbFunction.apply(*arguments)[0]

    model.forward, model.has_completion_head = MethodType(forward, model), True
    if not _computes_as_it_does(model):
        model.forward, model.has_completion_head = own_forward, False


@torch.no_grad()
def _computes_as_it_does(model: PreTrainedModel) -> bool:
    """Are our log-probabilities those of the model's own logits, on a text of a few tokens?"""
    if is_deepspeed_zero3_enabled() or any(
        weight.is_meta or isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in model.parameters()
    ):
        return True
    layout, was_training = Layout(packed=False, max_tokens=1, pad_id=0), model.training
    ids = [(7 * number + 1) % model.config.get_text_config().vocab_size for number in range(TRIED)]
    batch = {name: value.to(model.device) for name, value in layout.batch([Item(ids[:1], [ids[1:]])]).items()}
    model.eval()
    found = token_log_probs(model, model, layout, batch)
    logits = model(**layout.inputs(batch, model), use_cache=False).logits.flatten(0, 1)[batch["predictors"]]
    model.train(was_training)
    expected = logits.float().log_softmax(dim=1).gather(1, batch["targets"][:, None])[:, 0]
    return bool((found - expected).abs().max() <= tolerance(model, model.dtype) * expected.abs().max())


class TargetLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T) at the targets, `tile` tokens of the vocabulary at a time.

    Forward keeps the normaliser Z of every row; backward computes the probabilities again, in place:
        d log p_t / d hidden = weight_t - sum_v p_v weight_v,   p_v = exp(hidden . weight_v - log Z)
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, tile: int) -> Tensor:
        parts = [torch.logsumexp(hidden @ rows.T, dim=1) for rows in weight.split(tile)]
        normaliser = torch.stack(parts).logsumexp(dim=0)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.tile = tile
        return (hidden * weight[targets]).sum(dim=1) - normaliser

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, targets, normaliser = ctx.saved_tensors
        with maybe_gather_lm_head_ctx(weight):
            to_hidden = weight[targets] * gradient[:, None]
            to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
            for start in range(0, len(weight), ctx.tile):
                rows = weight[start : start + ctx.tile]
                probabilities = torch.addmm(normaliser[:, None], hidden, rows.T, beta=-1).exp_()
                probabilities.mul_(-gradient[:, None])
                to_hidden.addmm_(probabilities, rows)
                if to_weight is not None:
                    torch.mm(probabilities.T, hidden, out=to_weight[start : start + ctx.tile])
            if to_weight is not None:
                to_weight.index_add_(0, targets, hidden * gradient[:, None])
        return to_hidden, to_weight, None, None


def _whole(parameter: Tensor | None) -> Tensor | None:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def answer_log_probs(model: nn.Module, inner: PreTrainedModel, layout: Layout, batch: dict[str, Tensor]) -> Tensor:
    """(answer,) log pi(y | x) of every answer."""
    return by_answer(token_log_probs(model, inner, layout, batch), batch)


def by_answer(per_token: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """(answer,) sums of what every token of the answers has."""
    return per_token.new_zeros(len(batch["answer_row"])).index_add(0, batch["target_answer"], per_token)


def token_log_probs(model: nn.Module, inner: PreTrainedModel, layout: Layout, batch: dict[str, Tensor]) -> Tensor:
    """(target,) log pi of every token of the answers."""
    if not getattr(without_adapters(inner), "has_completion_head", False):
        return trl_log_probs(model, inner, layout, batch)
    inputs = layout.inputs(batch, inner)
    return model(**inputs, use_cache=False, predictors=batch["predictors"], targets=batch["targets"])


def trl_log_probs(model: nn.Module, inner: PreTrainedModel, layout: Layout, batch: dict[str, Tensor]) -> Tensor:
    """(target,) log pi by the head that TRL gives a model, for one whose logits are computed as it alone knows."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["predictors"] + 1] = batch["targets"]
    inputs = layout.inputs(batch, inner)
    log_probs = model(**inputs, use_cache=False, labels=labels, fused_lm_head=True).log_probs
    return pad(log_probs, (0, 1)).flatten()[batch["predictors"]]


def answer_rewards(model: nn.Module, inner: PreTrainedModel, layout: Layout, batch: dict[str, Tensor]) -> Tensor:
    """(answer,) rewards of a sequence classifier, read where transformers reads them: at the last token but padding."""
    inputs = layout.inputs(batch, inner)
    if not layout.together:
        return model(**inputs, use_cache=False).logits[:, 0].float()
    scores: list[Tensor] = []
    plain = without_adapters(inner)
    score_head = plain.score  # with LoRA peft's copy of it, which trains
    handles = [score_head.register_forward_hook(lambda module, args, output: scores.append(output))]
    if isinstance(plain.get_input_embeddings(), StoredStates):  # of few blocks the last is a large part
        width, last = batch["input_ids"].shape[1], batch["answer_last"]
        handles += network_only_at(decoder_blocks(plain)[0][-1], last // width, last % width)
    try:
        model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return scores[0].flatten()[batch["answer_last"]].float()
