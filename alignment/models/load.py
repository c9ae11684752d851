"""Models and tokenizers from plain arguments. Remote code is never run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
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
from transformers.utils.logging import disable_progress_bar

from alignment.data.chat import ChatFormat, chat_format, end_ids
from alignment.models.devices import training_dtype
from alignment.models.source import ModelSource, ready_path
from alignment.types import Dtype, UserError


def context_of(config: PreTrainedConfig) -> int | None:
    """Tokens a model can read at once, where its configuration says so."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


@dataclass
class Loaded:
    """A model with the way its conversations are written."""

    model: PreTrainedModel
    format: ChatFormat
    end_ids: set[int]

    @property
    def context(self) -> int | None:
        """Tokens the model can read at once, where its configuration says so."""
        return context_of(self.model.config)

    def longest(self, key: str, wanted: int) -> tuple[int, str]:
        """How many tokens a text of a training may have, and what says so: a setting, or the model's context."""
        if self.context is not None and self.context < wanted:
            return self.context, f"the model's context of {self.context}"
        return wanted, f"{key}={wanted}"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.format.tokenizer


def load_backbone(source: ModelSource, dtype: Dtype, device: torch.device, template: str | None = None) -> Loaded:
    """Decoder blocks and final norm, no language-model head: for reading activations."""
    return _load(AutoModel, source, dtype, device, template)


def load_language_model(
    source: ModelSource, dtype: Dtype, device: torch.device, template: str | None = None, thinking: bool = False
) -> Loaded:
    """With its head: for generating. thinking: may answers begin with thoughts?"""
    return _load(AutoModelForCausalLM, source, dtype, device, template, thinking)


def load_trainable(source: ModelSource, template: str | None = None, quantized: torch.device | None = None) -> Loaded:
    """With its head, in float32 and on the CPU: for training a policy. quantized: in 4 bits, on this device."""
    if quantized is None:
        return _load(AutoModelForCausalLM, source, "float32", torch.device("cpu"), template)
    path = ready_path(source)
    _quiet_if_local(path)
    model = AutoModelForCausalLM.from_pretrained(path, revision=source.revision, **_in_4_bits(quantized))
    return _with_format(model, path, source.revision, template)


def load_reward_model(folder: Path, device: torch.device) -> PreTrainedModel:
    """A trained reward model, in float32: for scoring."""
    _quiet_if_local(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.to(device).eval()


def load_reward_scorer(source: ModelSource, device: torch.device) -> Loaded:
    """A reward model with the way its conversations are written, in float32: any sequence classifier of one score."""
    loaded = _load(AutoModelForSequenceClassification, source, "float32", device, None)
    if loaded.model.config.num_labels != 1:
        raise UserError(
            "model", f"{source.path} gives {loaded.model.config.num_labels} scores, not one", "name another"
        )
    return loaded


def load_reward_base(
    source: ModelSource, seed: int, template: str | None = None, quantized: torch.device | None = None
) -> Loaded:
    """The model with a new scalar head, drawn from `seed`, in float32: for training a reward model."""
    path = ready_path(source)
    _quiet_if_local(path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, revision=source.revision, num_labels=1, problem_type="regression",
            **({"dtype": torch.float32} if quantized is None else _in_4_bits(quantized)),
        )  # fmt: skip
    return _with_format(model, path, source.revision, template)


def _in_4_bits(device: torch.device) -> dict[str, Any]:
    """from_pretrained's arguments for QLoRA (Dettmers et al. 2023): NF4, and its scales quantized again."""
    half = device.type != "cpu" and training_dtype("auto") == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score"],  # of 4 bits too, whatever its name says
    )
    return {"quantization_config": settings, "dtype": dtype, "device_map": {"": device}}


def _quiet_if_local(path: str) -> None:
    """A bar for reading weights from disk is noise; one for downloading them isn't."""
    if Path(path).is_dir():
        disable_progress_bar()


def _load(
    kind: type, source: ModelSource, dtype: Dtype, device: torch.device, template: str | None, thinking: bool = False
) -> Loaded:
    path = ready_path(source)
    _quiet_if_local(path)
    model = kind.from_pretrained(path, revision=source.revision, dtype=dtype).to(device).eval()
    return _with_format(model, path, source.revision, template, thinking)


def _with_format(
    model: PreTrainedModel, path: str, revision: str | None, template: str | None, thinking: bool = False
) -> Loaded:
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    if tokenizer.eos_token is None:
        raise UserError("model", f"the tokenizer of {path} has no eos token", "set one in its tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    format = chat_format(tokenizer, template, thinking)
    return Loaded(model, format, end_ids(tokenizer, _generation_eos(model, path, revision)))


def _generation_eos(model: PreTrainedModel, path: str, revision: str | None) -> int | list[int] | None:
    try:
        return GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
    except OSError:  # not every model has a generation_config.json
        return model.config.get_text_config().eos_token_id
