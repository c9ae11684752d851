"""Models and tokenizers from plain arguments. Remote code is never run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from alignment.data.chat import ChatFormat, chat_format, end_ids
from alignment.models.devices import device, training_dtype, without_a_trace
from alignment.models.source import ModelSource, ready_path
from alignment.types import Dtype, UserError


def context_of(config: PreTrainedConfig) -> int | None:
    """Tokens a model can read at once, where its configuration says so."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@dataclass
class Loaded:
    """A model, the format its conversations are written in, and the tokens that may end an answer."""

    model: PreTrainedModel
    format: ChatFormat
    end_ids: set[int]

    @property
    def context(self) -> int | None:
        return context_of(self.model.config)

    def token_limit(self, key: str, wanted: int) -> tuple[int, str]:
        """How many tokens a text may have in a training, and what limits it: the setting `key`, or the context."""
        if self.context is not None and self.context < wanted:
            return self.context, f"the model's context of {self.context}"
        return wanted, f"{key}={wanted}"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.format.tokenizer


def load_backbone(source: ModelSource, device: torch.device) -> Loaded:
    """Decoder blocks and final norm, no language-model head: for reading activations."""
    return _load(AutoModel, source, device, dtype=source.dtype)


def load_language_model(source: ModelSource, device: torch.device) -> Loaded:
    """The model with its head: for generating."""
    return _load(AutoModelForCausalLM, source, device, dtype=source.dtype)


def load_trainable(source: ModelSource, quantized: torch.device | None = None) -> Loaded:
    """The model with its head, in float32 on the CPU: for training a policy. quantized: in 4 bits on this device."""
    return _load(AutoModelForCausalLM, source, quantized, **_precision(quantized))


def saved_dtype(source: ModelSource, wanted: Dtype) -> torch.dtype:
    """The precision in which a training of this model is saved; "auto": that in which the model itself lies on disk."""
    if wanted != "auto":
        return getattr(torch, wanted)
    path = ready_path(source)
    dtype = AutoConfig.from_pretrained(path, revision=source.revision).dtype
    if dtype is None:  # not every configuration names one; the weights have one
        config = cached_file(path, "config.json", revision=source.revision)
        dtype = _dtype_of_weights(Path(config).parent)
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _dtype_of_weights(folder: Path) -> torch.dtype:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (a file)
                if (weight := weights.get_tensor(name)).is_floating_point():
                    return weight.dtype
    return torch.float32


def load_reward_model(folder: Path, device: torch.device) -> PreTrainedModel:
    """A trained reward model, in float32: for scoring."""
    _quiet_if_local(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.to(device).eval()


def load_reward_scorer(source: ModelSource, device: torch.device) -> Loaded:
    """Any sequence classifier of one score, in float32, with the format of its conversations: for scoring."""
    loaded = _load(AutoModelForSequenceClassification, source, device, dtype=torch.float32)
    if loaded.model.config.num_labels != 1:
        problem = f"{source.path} gives {loaded.model.config.num_labels} scores, not one"
        raise UserError("model", problem, "name another")
    return loaded


def load_reward_base(source: ModelSource, seed: int, quantized: torch.device | None = None) -> Loaded:
    """The model with a new scalar head, drawn from `seed`, in float32 and on the CPU: for training a reward model."""
    head = {"num_labels": 1, "problem_type": "regression"}
    with without_a_trace(device()):
        torch.manual_seed(seed)
        return _load(AutoModelForSequenceClassification, source, quantized, **head, **_precision(quantized))


def _precision(quantized: torch.device | None) -> dict[str, Any]:
    """Arguments of from_pretrained for training: float32, or 4 bits on this device for weights under adapters.

    The 4 bits are QLoRA's (Dettmers et al. 2023): NF4, and its scales quantized again.
    """
    if quantized is None:
        return {"dtype": torch.float32}
    half = quantized.type != "cpu" and training_dtype("auto") == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score"],  # it is read for 4 bits too
    )
    return {"quantization_config": settings, "dtype": dtype, "device_map": {"": quantized}}


def _load(kind: type, source: ModelSource, device: torch.device | None, **arguments: Any) -> Loaded:
    """The model on a device (None: where from_pretrained puts it), with its tokenizer's format and end tokens."""
    path = ready_path(source)
    _quiet_if_local(path)
    model = kind.from_pretrained(path, revision=source.revision, **arguments).eval()
    if device is not None and device != model.device:
        model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(path, revision=source.revision)
    if tokenizer.eos_token is None:
        raise UserError("model", f"the tokenizer of {path} has no eos token", "set one in its tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    format = chat_format(tokenizer, source.chat_template, source.thinking)
    return Loaded(model, format, end_ids(tokenizer, _generation_eos(model, path, source.revision)))


def _quiet_if_local(path: str) -> None:
    """Switches off transformers' progress bar for weights that are on disk; a download keeps it."""
    if Path(path).is_dir():
        disable_progress_bar()


def _generation_eos(model: PreTrainedModel, path: str, revision: str | None) -> int | list[int] | None:
    try:
        return GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
    except OSError:  # not every model has a generation_config.json
        return model.config.get_text_config().eos_token_id
