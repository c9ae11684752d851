"""The score an answer to a prompt gets: from a reward model, or from a hybrid reward on the model's own states."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment.data.chat import Rendered
from alignment.models.activations import layer_count, response_states
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded


@torch.no_grad()
def reward_scores(model: PreTrainedModel, rows: Sequence[Rendered], pad_id: int, padding: str = "right") -> Tensor:
    """(row,) float32 scores of one padded batch."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row.ids)) if padding == "right" else slice(width - len(row.ids), width)
        ids[i, place] = torch.from_numpy(row.ids).long()
        mask[i, place] = 1
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
    return logits[:, 0].float().cpu()


def hybrid_scores(loaded: Loaded, reward: HybridReward, rows: Sequence[Rendered]) -> Tensor:
    """(row,) float64 scores of one batch; the language-model head is never computed."""
    layers = range(1, layer_count(loaded.model) + 1)
    pad_id = loaded.tokenizer.pad_token_id
    states, _ = response_states(loaded.model, rows, layers, reward.pooling, loaded.end_ids, pad_id)
    return reward.score(states).cpu()
