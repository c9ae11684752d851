"""The scores of answers to prompts: by a reward model, by a hybrid reward on the language model's own states, or how
likely a language model finds them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from alignment.data.chat import Rendered
from alignment.maths.hybrid import hybrid_score
from alignment.models.activations import response_states
from alignment.models.architecture import layer_count
from alignment.models.completions import add_completion_head, answer_log_probs, answer_rewards
from alignment.models.devices import to_device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout


@torch.no_grad()
def reward_scores(model: PreTrainedModel, rows: Sequence[Rendered], pad_id: int, padding: str = "right") -> Tensor:
    """(row,) float32 scores of one batch, padded on the right or on the left."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row.ids)) if padding == "right" else slice(width - len(row.ids), width)
        ids[i, place] = torch.from_numpy(row.ids).long()
        mask[i, place] = 1
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
    return logits[:, 0].float().cpu()


@torch.inference_mode()
def packed_reward_scores(model: PreTrainedModel, layout: Layout, items: Sequence[Item]) -> Tensor:
    """(answer,) float32 scores of a reward model, in answer_order."""
    batch = {name: to_device(value, model.device) for name, value in layout.batch(items).items()}
    return answer_rewards(model, model, layout, batch).float()


@torch.inference_mode()
def hybrid_scores(loaded: Loaded, reward: HybridReward, layout: Layout, items: Sequence[Item]) -> Tensor:
    """(answer,) float64 scores, in answer_order, finite or not; the language-model head is never computed."""
    layers = range(1, layer_count(loaded.model) + 1)
    states, _ = response_states(loaded.model, layout, items, layers, reward.pooling, loaded.end_ids)
    scores = reward.unchecked_scores(states)
    return hybrid_score(scores, reward.gate_weights(scores))


def add_log_probs(model: PreTrainedModel) -> None:
    """Lets a language model give log-probabilities of answers, without keeping logits of the whole vocabulary."""
    add_completion_head(model)
    if not model.has_completion_head:
        add_fused_lm_head(model)


@torch.inference_mode()
def packed_log_probs(model: PreTrainedModel, layout: Layout, items: Sequence[Item]) -> Tensor:
    """(answer,) float32 log p(answer | prompt) by a model after add_log_probs, in answer_order."""
    batch = {name: to_device(value, model.device) for name, value in layout.batch(items).items()}
    return answer_log_probs(model, model, layout, batch).float()
