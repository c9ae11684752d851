"""What a model takes that trains nothing, to read a planned batch or to sample one; it is built on the meta device.

Each is built once, however many stages ask for it; so is what it keeps of a batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from alignment.memory import meta_model, parts, planned_texts
from alignment.memory.machine import Machine
from alignment.memory.parts import Kept, Memory
from alignment.memory.planned_texts import Texts
from alignment.models.packing import Item, Layout, Packing
from alignment.models.source import model_source


class ModelMemory:
    """Of the model of one run, on one machine."""

    def __init__(self, cfg: DictConfig, machine: Machine) -> None:
        self.machine = machine
        self._config = meta_model.configuration(model_source(cfg.model))
        self._made_once: dict[str, Any] = {}

    # ---- inference --------------------------------------------------------------------------------------------------

    def _read(
        self, cfg: DictConfig, kind: str, texts: Texts, tokens: int, dtype: torch.dtype | None = None, *,
        states: int = 0,
    ) -> Memory:  # fmt: skip
        """Memory to read a planned batch: for rewards, or for the answers' states of all layers at so many places."""
        dtype = dtype or self.dtype(cfg)
        model = self._model(kind, dtype, None)
        layout = self._layout(cfg, model, texts.items)
        items = planned_texts.planned(texts.items, min(tokens, round(texts.count * texts.mean)), layout.size)
        shape = meta_model.shape(model)
        answers = sum(len(item.answers) for item in items)
        hidden = states * answers * shape.layers * shape.width * (dtype.itemsize + 4)
        return self._inferred(model, layout, items, dtype, hidden=hidden)

    def _sample(
        self, cfg: DictConfig, texts: Texts, answers: int, new_tokens: int, tokens: int, *, greedy: bool,
        dtype: torch.dtype | None = None,
    ) -> Memory:  # fmt: skip
        """Memory to sample a batch: prompts are computed, each once, then answers token by token with their cache."""
        dtype = dtype or self.dtype(cfg)
        model, text_config = self._model("language", dtype, None), self._config.get_text_config()
        prompt_lengths = [len(item.prompt) for item in texts.items]
        length = max(prompt_lengths) + new_tokens
        mean_length = round(sum(prompt_lengths) / len(prompt_lengths)) + new_tokens
        rows, mean_rows = (max(1, min(texts.count * answers, tokens // size)) for size in (length, mean_length))
        prompts = [Item(item.prompt[:-1] or [0], [[0]]) for item in texts.items]
        layout = replace(self._layout(cfg, model, prompts), packed=False)
        items = planned_texts.planned(prompts, math.ceil(rows / answers) * max(prompt_lengths), layout.size)
        heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
        width = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
        return self._inferred(
            model, layout, items, dtype,
            cache=parts.cache_bytes(rows, length, text_config.num_hidden_layers, heads, width, dtype.itemsize),
            logits=parts.sampling_bytes(mean_rows, text_config.vocab_size, dtype.itemsize, greedy),
        )  # fmt: skip

    def _inferred(
        self, model: nn.Module, layout: Layout, items: Sequence[Item], dtype: torch.dtype, **others: int
    ) -> Memory:
        """Memory to compute these items without a backward pass; others: what parts.inference counts besides."""
        weights = meta_model.shape(model).parameters * dtype.itemsize
        kept = self._kept(model, layout, items, autocast=False)
        return parts.inference(weights, kept, self.machine.gpu, host=weights if self.machine.gpu else 0, **others)

    # ---- models and what they keep ----------------------------------------------------------------------------------

    def dtype(self, cfg: DictConfig) -> torch.dtype:
        """The type of the weights in inference."""
        return self.stored_dtype if cfg.model.dtype == "auto" else getattr(torch, cfg.model.dtype)

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of the weights as they lie on disk."""
        dtype = getattr(self._config, "dtype", None) or torch.float32
        return getattr(torch, dtype) if isinstance(dtype, str) else dtype

    def _model(self, kind: str, dtype: torch.dtype, lora: Any, upper_blocks: int | None = None) -> nn.Module:
        how = (kind, dtype, lora, upper_blocks)
        return self._once(str(how), lambda: meta_model.build(self._config, *how))

    def _layout(self, cfg: DictConfig, model: nn.Module, items: Sequence[Item]) -> Layout:
        longest = max(item.longest for item in items)
        return meta_model.layout(model, Packing(**cfg.packing), self.machine.gpu, longest)

    def _kept(self, model: nn.Module, layout: Layout, items: Sequence[Item], autocast: bool) -> Kept:
        lengths = [(len(item.prompt), *map(len, item.answers)) for item in items]
        key = f"{id(model)} {layout} {lengths} {autocast}"
        return self._once(key, lambda: meta_model.kept(model, layout, items, autocast))

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._made_once:
            self._made_once[key] = make()
        return self._made_once[key]
