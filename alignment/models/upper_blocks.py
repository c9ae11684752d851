"""A reward model in two parts: lower blocks that stay as they are, and upper ones that train, with final norm and head.

The upper part is an ordinary sequence classifier with fewer blocks, whose embeddings are the states that the lower part
gives (lower_states.py). Both consist of the whole model's own modules: what is trained in one is trained in the other.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.data.chat import Rendered
from alignment.models.architecture import decoder_blocks, layer_count
from alignment.models.lower_states import NumberedTexts, StoredStates, token_states
from alignment.models.packing import Layout
from alignment.types import StageFailed, UserError

KEY = "trainer.upper_blocks"
# Architectures whose blocks take what the one below gives, and nothing else but positions.
SPLIT = ("llama", "qwen2", "qwen3", "mistral")
CHECKED = 4  # texts that the whole model and its parts read
TOLERANCE = 1e-4  # of the largest state; another order of float32 sums stays far below it
LARGEST_IN_HALF = 32768.0  # float16 ends at 65,504, and other texts may have larger states than those that are checked


def require_split(kind: str, count: int, blocks: int) -> None:
    """UserError unless `blocks` upper ones of a model's `count` blocks can be trained alone; kind: its architecture."""
    if kind not in SPLIT:
        problem = f"models of type {kind} may compute more between embeddings and blocks than states show"
        raise UserError(KEY, problem, f"leave it out, or use a model of type {', '.join(SPLIT)}")
    if blocks >= count:
        problem = f"it is {blocks}, the model's blocks are {count}, and one at least stays as it is"
        remedy = f"give 1 to {count - 1}, or leave it out" if count > 1 else "leave it out"
        raise UserError(KEY, problem, remedy)


def lower_part(model: PreTrainedModel, blocks: int) -> PreTrainedModel:
    """All of a classifier that lies below its `blocks` upper blocks; it gives what they are given."""
    backbone = model.base_model
    return _part(backbone, 0, layer_count(model) - blocks, backbone.embed_tokens, nn.Identity())


def upper_part(model: PreTrainedModel, blocks: int, states: StoredStates) -> PreTrainedModel:
    """A classifier of the upper blocks, with the model's own final norm and head; it takes the numbers of tokens."""
    count, backbone = layer_count(model), model.base_model
    part = _part(backbone, count - blocks, count, states, backbone.norm)
    with torch.device("meta"):
        upper = type(model)(part.config)
    setattr(upper, upper.base_model_prefix, part)
    upper.score = model.score
    return upper.eval()


def _part(backbone: PreTrainedModel, start: int, stop: int, embeddings: nn.Module, norm: nn.Module) -> PreTrainedModel:
    """A decoder of some of another's blocks. They are read by its configuration now: by it attention is chosen."""
    blocks, _ = decoder_blocks(backbone)
    with torch.device("meta"):
        part = type(backbone)(part_config(backbone.config, start, stop))
    part.embed_tokens, part.norm, part.rotary_emb = embeddings, norm, backbone.rotary_emb
    part.layers = nn.ModuleList(blocks[start:stop])
    for module in part.layers.modules():
        if hasattr(module, "config"):
            module.config = part.config
    left = [name for name, tensor in (*part.named_parameters(), *part.named_buffers()) if tensor.is_meta]
    if left:
        raise StageFailed(KEY, f"{left[0]} of {type(part).__name__} is in no part of the model", "leave it out")
    return part.eval()


def part_config(config: object, start: int, stop: int) -> object:
    """The configuration of a model that has some of another's blocks."""
    config = copy.deepcopy(config)
    config.num_hidden_layers, config.use_cache = stop - start, False  # a cache would count blocks from the lowest
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[start:stop]
    return config


@torch.inference_mode()
def check_split(model: PreTrainedModel, blocks: int, texts: Sequence[Rendered], padding: int) -> torch.dtype:
    """StageFailed unless the parts, one after the other, give what the whole model gives for the first texts.

    Returns the precision in which states are kept: float16 has more digits than bfloat16, but ends at 65,504.
    """
    texts = list(texts[:CHECKED])
    whole = [_last_states(model, text) for text in texts]
    lower, numbered = lower_part(model, blocks), NumberedTexts.of(texts, padding)
    layout = Layout(packed=False, max_tokens=1, pad_id=padding)
    states = [token_states(lower, layout, [item]) for item in numbered.items]
    rows = torch.cat([states[0].new_zeros(1, states[0].shape[1]), *states]).cpu()
    upper = upper_part(model, blocks, StoredStates(rows, padding))
    for text, expected in zip(texts, whole, strict=True):
        parts = _last_states(upper, numbered[text])
        read = torch.from_numpy(numbered[text].ids != padding)
        difference = float((parts - expected)[read].abs().max() / expected[read].abs().max())
        if not difference <= TOLERANCE:  # NaN fails too
            problem = f"its parts, one after the other, differ by {difference:.1e} from {type(model).__name__}"
            raise StageFailed(KEY, problem, "leave it out, and report the model")
    return torch.float16 if float(rows.abs().max()) <= LARGEST_IN_HALF else torch.bfloat16


def _last_states(model: PreTrainedModel, text: Rendered) -> Tensor:
    ids = torch.from_numpy(text.ids).long()[None].to(model.device)
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0].cpu()
