"""What packing, the language-model head and reading layers need of an architecture, looked up in the model itself.

No architecture is listed: blocks, final norm and head are found where the model keeps them, and windows, scales and
layers' kinds in its configuration, under the names that transformers gives them. Whether that is all there is to know
is not believed: it is proved before anything begins, packed rows by packing_check.py, the head by completions.py.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignment.models import item_attention
from alignment.types import UserError

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
MASKED_ATTENTIONS = ("sdpa", "eager", "flex_attention", item_attention.NAME)  # that take masks of ours
BY_MASK = ("full_attention", "sliding_attention", "chunked_attention")  # kinds of layers that see what a mask says
# What a configuration calls the number that all logits are multiplied by; Granite divides by its `logits_scaling`.
LOGIT_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier")


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside peft's; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layer_count(model: PreTrainedModel) -> int:
    return model.config.get_text_config().num_hidden_layers


def decoder_blocks(model: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module]:
    """The decoder's blocks and the norm after them, wherever the architecture keeps them."""
    _, blocks, norm = _decoder(model)
    return blocks, norm


def backbone(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that has no head. Some name a place for it (base_model_prefix) that they don't have."""
    base = model.base_model
    return base if base is not model or model.get_output_embeddings() is None else _decoder(model)[0]


def _decoder(model: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList, nn.Module]:
    """The module that holds the blocks, the blocks, and the norm after them."""
    count = layer_count(model)
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                norms = [norm for name in FINAL_NORMS if (norm := getattr(module, name, None)) is not None]
                if norms:
                    return module, child, norms[0]
    problem = f"no stack of {count} decoder blocks with a final norm in {type(model).__name__}"
    raise UserError("model", problem, "use a decoder-only model")


def network_by_token(block: nn.Module) -> nn.Module | None:
    """The block's feed-forward network, if all it does is done token by token: None where that can't be seen.

    It takes the tokens' states and nothing else, and has weights only in linear maps of one token's state.
    """
    network = getattr(block, "mlp", None)
    if not isinstance(network, nn.Module) or len(inspect.signature(network.forward).parameters) != 1:
        return None
    weighted = [part for part in network.modules() if any(True for _ in part.parameters(recurse=False))]
    return network if weighted and all(isinstance(part, nn.Linear | Conv1D) for part in weighted) else None


# ---- several texts in a row -----------------------------------------------------------------------------------------


def why_one_text_a_row(model: PreTrainedModel) -> str | None:
    """Why a row of this model can't hold several texts, however they are masked; None if nothing speaks against it."""
    model = without_adapters(model)
    config = model.config.get_text_config()
    if "position_ids" not in inspect.signature(backbone(model).forward).parameters or getattr(config, "alibi", False):
        return f"{config.model_type} takes no positions: it counts the tokens of a row"
    if getattr(config, "attn_temperature_tuning", False):
        return f"{config.model_type} scales attention by a token's place in its row (attn_temperature_tuning)"
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - set(BY_MASK))
    if kinds or getattr(model, "_is_stateful", False):
        which = f"its layers of {' and '.join(kinds)}" if kinds else f"{config.model_type}"
        return f"{which} carry what they read from one text of a row into the next"
    return None


def why_no_shared_prompt(model: PreTrainedModel) -> str | None:
    """Why the texts in a row can't share their prompt; None if nothing speaks against it."""
    attention = model.config._attn_implementation
    if attention not in MASKED_ATTENTIONS:
        return f"{attention} takes no mask of ours; load the model with attn_implementation=sdpa, or packing=segments"
    return why_one_text_a_row(model)


def sight(model: PreTrainedModel) -> tuple[int, str] | None:
    """How many tokens a token sees at most, where some layer is limited, and what the limit is called."""
    config = model.config.get_text_config()
    kinds, limits = getattr(config, "layer_types", None), []
    if (window := getattr(config, "sliding_window", None)) and (not kinds or "sliding_attention" in kinds):
        limits.append((window, "sliding window"))
    if (chunk := getattr(config, "attention_chunk_size", None)) and (not kinds or "chunked_attention" in kinds):
        limits.append((chunk, "attention chunk"))
    return min(limits, default=None)


def goes_item_by_item(model: PreTrainedModel) -> bool:
    """Can its sdpa attention be exchanged for one that takes further arguments (item_attention.py)?"""
    return model.config._attn_implementation == "sdpa" and without_adapters(model)._supports_attention_backend


# ---- the head -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """What the logits are of the last states: softcap tanh(scale (W h + b) / softcap), or without the soft cap."""

    scale: float
    softcap: float | None


def output_head(model: PreTrainedModel) -> Head | None:
    """As the configuration tells; None where the model has no head that is a linear map."""
    module, config = model.get_output_embeddings(), model.config.get_text_config()
    if getattr(module, "weight", None) is None or module.weight.ndim != 2:
        return None
    scales = [scale for name in LOGIT_SCALES if (scale := getattr(config, name, None)) is not None]
    if divisor := getattr(config, "logits_scaling", None):
        scales.append(1 / divisor)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(float(scales[0]) if scales else 1.0, None if softcap is None else float(softcap))


# ---- which architecture it is ---------------------------------------------------------------------------------------


def architecture_hash(model: PreTrainedModel) -> str:
    """Changes with all that a model computes but its weights, which change at every step: and with the libraries."""
    plain = without_adapters(model)
    facts: list[Any] = [
        transformers.__version__, torch.__version__, type(plain).__name__, plain.config._attn_implementation,
        _without_places(plain.config.to_dict()),
        [(name, str(weight.dtype), weight.requires_grad) for name, weight in model.named_parameters()],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
