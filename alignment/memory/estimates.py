"""What each stage of a recipe takes on each rank, from its configuration: parameters, memory by what it is for, tokens.

Models are built on the meta device and data are sampled: no weights are loaded or downloaded, and no GPU is touched.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from alignment.evaluation.pair_scores import SCORED_TOKENS
from alignment.memory import meta_model, parts, planned_texts
from alignment.memory.machine import Machine
from alignment.memory.parts import Kept, Memory, Setting, Shape
from alignment.memory.planned_texts import Texts
from alignment.models.packing import Item, Layout, Packing
from alignment.models.source import model_source
from alignment.policies.systems import SYSTEMS, evaluated, grid, trained_by
from alignment.runs.ranks import batch_shape
from alignment.runs.run_files import RunDir
from alignment.stages import STAGES
from alignment.trainers.arguments import lora_config

STATES_OF_A_PAIR = 2 * (4 + 3 * 8)  # bytes a number: as read, and in float64 where the live reward is re-fitted on them


@dataclass(frozen=True)
class Estimate:
    """Of one stage. step: tokens of an optimiser step, or of a batch; total: of all that is read and written."""

    stage: str
    layout: str
    shape: Shape
    memory: Memory
    texts: Texts
    step: int
    total: int


class Estimator:
    """Estimates stages under any settings of one run: what they have in common is read and built once."""

    def __init__(self, cfg: DictConfig, run: RunDir, machine: Machine) -> None:
        self.machine = machine
        self._config = meta_model.configuration(model_source(cfg.model))
        self._train, self._heldout = planned_texts.pairs(cfg)
        self._built = planned_texts.built(cfg, run, self._train) if "build_pairs" in _stages_read(cfg) else None
        self._known: dict[str, Any] = {}

    def estimate(self, stage: str, cfg: DictConfig) -> Estimate:
        """stage: any that trains, or says which estimate holds for it."""
        if STAGES[stage].trains:
            return self._training(stage, cfg)
        estimates = {
            "induce": self._induce, "annotate": self._annotate, "fit_reward": self._fit_reward,
            "build_pairs": self._build_pairs, "evaluate": self._evaluate, "best_of_n": self._best_of_n,
        }  # fmt: skip
        return estimates[STAGES[stage].model.estimate](stage, cfg)

    # ---- trainings --------------------------------------------------------------------------------------------------

    def _training(self, stage: str, cfg: DictConfig) -> Estimate:
        """Of the systems that it trains, the one that takes most."""
        sets = [self._train]
        if STAGES[stage].trains.settings == "policy":
            stars = {SYSTEMS[name].star for name in trained_by(stage, list(cfg.policy.systems))}
            sets = [self._built if star else self._train for star in sorted(stars)] or sets
        found = [self._trained_on(stage, cfg, texts) for texts in sets]
        most = max(found, key=lambda one: one.memory.peak)
        return replace(most, total=sum(one.total for one in found))

    def _trained_on(self, stage: str, cfg: DictConfig, texts: Texts) -> Estimate:
        trains = STAGES[stage].trains
        settings = cfg[trains.settings]
        setting, micro = self._setting(stage, cfg)
        lora = None if cfg.lora.name == "none" else _lora(cfg, stage)
        split = setting.layout.startswith(("zero", "fsdp2"))
        dtype = torch.bfloat16 if setting.half and split else torch.float32
        model = self._model("reward" if trains.settings == "trainer" else "language", dtype, lora)
        texts = texts.within(settings.max_length)
        if trains.chosen_only:
            texts = replace(texts, items=[Item(item.prompt, item.answers[:1]) for item in texts.items])
        steps = settings.max_steps
        if steps < 0:
            steps = math.ceil(settings.num_train_epochs * texts.count / settings.batch_size)
        layout = self._layout(cfg, model, texts.items)
        draws = steps * settings.batch_size // micro
        items = planned_texts.largest(texts.items, micro, draws, layout.size)
        kept = self._kept(model, layout, items, setting.half and not split)
        shape = meta_model.shape(model)
        live = trains.live_reward and cfg.confidence.source != "column"
        hidden = micro * STATES_OF_A_PAIR * shape.layers * shape.width if live else 0
        found = parts.training(shape, kept, setting, hidden)
        found = replace(found, around=max(found.around, self._after(stage, cfg, shape, texts)))
        mean = sum(layout.size(item) for item in texts.items) / len(texts.items)
        total = round(steps * settings.batch_size * mean) * _trainings(stage, cfg)
        return Estimate(stage, setting.layout, shape, found, texts, round(settings.batch_size * mean), total)

    def _setting(self, stage: str, cfg: DictConfig) -> tuple[Setting, int]:
        """And pairs in a micro-batch."""
        trains, machine = STAGES[stage].trains, self.machine
        settings = cfg[trains.settings]
        micro, accumulation = batch_shape(
            settings.batch_size, settings.per_device_batch_size, machine.ranks, trains.settings
        )
        reference = trains.reference and cfg.lora.name == "none"
        return Setting(
            layout=machine.layout(cfg, stage), ranks=machine.ranks, gpu=machine.gpu,
            half=settings.precision == "bfloat16" or (settings.precision == "auto" and machine.half),
            reference=reference and not cfg.policy.precompute_ref_log_probs,
            checkpointing=settings.activation_checkpointing, accumulates=accumulation > 1,
        ), micro  # fmt: skip

    def _after(self, stage: str, cfg: DictConfig, shape: Shape, texts: Texts) -> int:
        """What comes once it has trained: adapters merged into a fresh copy, on the CPU; the reward model scored."""
        weights = 4 * shape.parameters
        merged = 0 if self.machine.gpu or cfg.lora.name == "none" else 2 * weights + parts.allowance(False)
        if STAGES[stage].trains.settings == "policy":
            return merged
        return max(merged, self._read(cfg, "reward", texts, SCORED_TOKENS, torch.float32).peak)

    # ---- inference --------------------------------------------------------------------------------------------------

    def _induce(self, stage: str, cfg: DictConfig) -> Estimate:
        contrast, tokens = cfg.annotator.contrast, cfg.annotator.batch_tokens
        texts = self._once("questions", lambda: planned_texts.questions(cfg, self._train))
        if contrast.file is not None:  # ready-made: no model is loaded
            nothing = Memory(other=parts.allowance(self.machine.gpu))
            return self._estimate(stage, cfg, "language", nothing, texts, 0, 0)
        found = self._sample(cfg, texts, 1, contrast.max_new_tokens, tokens, greedy=True)
        return self._estimate(stage, cfg, "language", found, texts, tokens, round(texts.count * texts.mean))

    def _annotate(self, stage: str, cfg: DictConfig) -> Estimate:
        texts, tokens = self._train, cfg.annotator.batch_tokens
        total = (texts.count + self._heldout.count) * texts.mean
        found = self._read(cfg, "backbone", texts, tokens, states=True)
        return self._estimate(stage, cfg, "backbone", found, texts, tokens, round(total))

    def _fit_reward(self, stage: str, cfg: DictConfig) -> Estimate:
        """All layers of all answers are held in the end, in float32 and by every rank."""
        texts, tokens = self._train.first(cfg.reward.pairs), cfg.reward.batch_tokens
        count = texts.count + self._heldout.count + (3 * cfg.data.evaluation if cfg.data.name == "world" else 0)
        found = self._read(cfg, "backbone", texts, tokens, states=True)
        text = self._config.get_text_config()
        states = count * 2 * 4 * text.num_hidden_layers * text.hidden_size
        if self.machine.gpu:
            found = replace(found, host=found.host + states)
        else:
            found = replace(found, hidden=found.hidden + states)
        return self._estimate(stage, cfg, "backbone", found, texts, tokens, round(count * texts.mean))

    def _build_pairs(self, stage: str, cfg: DictConfig) -> Estimate:
        prompts = self._train.first(cfg.build_pairs.prompts).count
        return self._sampled(stage, cfg, prompts, cfg.sampling.n, {cfg.build_pairs.scorer})

    def _evaluate(self, stage: str, cfg: DictConfig) -> Estimate:
        """Every policy answers every set; those trained here are in float32 unless model.dtype says another."""
        sets, systems = list(cfg.evaluation.sets), list(cfg.policy.systems)
        prompts = sum(self._own_prompts(cfg) if name == "data" else cfg.evaluation.prompts for name in sets)
        answers, scorers = (cfg.sampling.n, {"hybrid"}) if "rs_star" in systems else (1, set())
        trained = any(SYSTEMS[name].stage for name in systems)
        dtype = torch.float32 if trained and cfg.model.dtype == "auto" else None
        times = len(evaluated(cfg)) * len(cfg.policy.seeds)
        return self._sampled(stage, cfg, prompts, answers, scorers, times, dtype)

    def _best_of_n(self, stage: str, cfg: DictConfig) -> Estimate:
        best = cfg.best_of_n
        return self._sampled(stage, cfg, self._own_prompts(cfg), max(best.counts), set(best.scorers))

    def _own_prompts(self, cfg: DictConfig) -> int:
        """How many prompts kept from training are asked: of the world three sets of them."""
        asked = cfg.evaluation.prompts
        return 3 * asked if cfg.data.name == "world" else min(self._heldout.count, asked)

    def _sampled(
        self, stage: str, cfg: DictConfig, prompts: int, count: int, scorers: set[str], times: int = 1,
        dtype: torch.dtype | None = None,
    ) -> Estimate:  # fmt: skip
        """Answers are sampled, `count` to a prompt, and read again by whoever scores them; and all of that `times`."""
        sampling = cfg.sampling
        new = sampling.max_new_tokens
        texts = self._train.answered(count, new, prompts)
        found = [self._sample(cfg, texts, count, new, sampling.batch_tokens, greedy=False, dtype=dtype)]
        one = self._train.answered(1, new, prompts * count)  # how many of them share a row doesn't matter here
        for scorer in scorers - {"judge"}:
            kind, its = ("language", dtype) if scorer == "hybrid" else ("reward", torch.float32)
            found.append(self._read(cfg, kind, one, sampling.batch_tokens, its, states=scorer == "hybrid"))
        total = round(times * prompts * texts.mean)
        return self._estimate(stage, cfg, "language", parts.in_turn(found), texts, sampling.batch_tokens, total)

    def _estimate(
        self, stage: str, cfg: DictConfig, kind: str, found: Memory, texts: Texts, tokens: int, total: int
    ) -> Estimate:
        shape = meta_model.shape(self._model(kind, torch.float32, None))
        shape = replace(shape, trainable=0)
        return Estimate(stage, self.machine.layout(cfg, stage), shape, found, texts, min(tokens, total), total)

    def _read(
        self, cfg: DictConfig, kind: str, texts: Texts, tokens: int, dtype: torch.dtype | None = None, *,
        states: bool = False,
    ) -> Memory:  # fmt: skip
        """A planned batch is read: answers' states of all layers, or rewards."""
        dtype = dtype or self._dtype(cfg)
        model = self._model(kind, dtype, None)
        layout = self._layout(cfg, model, texts.items)
        items = planned_texts.planned(texts.items, min(tokens, round(texts.count * texts.mean)), layout.size)
        shape = meta_model.shape(model)
        answers = sum(len(item.answers) for item in items)
        hidden = answers * shape.layers * shape.width * (dtype.itemsize + 4) if states else 0
        kept = self._kept(model, layout, items, False)
        weights = shape.parameters * dtype.itemsize
        return parts.inference(weights, kept, self.machine.gpu, hidden=hidden, host=self._loaded(weights))

    def _sample(
        self, cfg: DictConfig, texts: Texts, answers: int, new: int, tokens: int, *, greedy: bool,
        dtype: torch.dtype | None = None,
    ) -> Memory:  # fmt: skip
        """A batch of answers is sampled: prompts are computed, each once, then token by token with their cache."""
        dtype = dtype or self._dtype(cfg)
        model, text = self._model("language", dtype, None), self._config.get_text_config()
        length = max(texts.prompts) + new
        most = texts.count * answers
        rows = max(1, min(most, tokens // length))
        likely = max(1, min(most, tokens // (round(sum(texts.prompts) / len(texts.prompts)) + new)))
        prompts = [Item(item.prompt[:-1] or [0], [[0]]) for item in texts.items]
        layout = replace(self._layout(cfg, model, prompts), packed=False)
        items = planned_texts.planned(prompts, math.ceil(rows / answers) * max(texts.prompts), layout.size)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        weights = meta_model.shape(model).parameters * dtype.itemsize
        return parts.inference(
            weights, self._kept(model, layout, items, False), self.machine.gpu,
            cache=parts.cache_bytes(rows, length, text.num_hidden_layers, heads, width, dtype.itemsize),
            logits=parts.sampling_bytes(likely, text.vocab_size, dtype.itemsize, greedy), host=self._loaded(weights),
        )  # fmt: skip

    # ---- what they share --------------------------------------------------------------------------------------------

    def _loaded(self, weights: int) -> int:
        return weights if self.machine.gpu else 0

    def _dtype(self, cfg: DictConfig) -> torch.dtype:
        """Of the weights in inference."""
        named = cfg.model.dtype
        found = getattr(self._config, "dtype", None) or torch.float32 if named == "auto" else getattr(torch, named)
        return getattr(torch, found) if isinstance(found, str) else found

    def _model(self, kind: str, dtype: torch.dtype, lora: Any) -> nn.Module:
        return self._once(f"{kind} {dtype} {lora}", lambda: meta_model.build(self._config, kind, dtype, lora))

    def _layout(self, cfg: DictConfig, model: nn.Module, items: Sequence[Item]) -> Layout:
        longest = max(item.longest for item in items)
        return meta_model.layout(model, Packing(**cfg.packing), self.machine.gpu, longest)

    def _kept(self, model: nn.Module, layout: Layout, items: Sequence[Item], autocast: bool) -> Kept:
        lengths = [(len(item.prompt), *map(len, item.answers)) for item in items]
        key = f"{id(model)} {layout} {lengths} {autocast}"
        return self._once(key, lambda: meta_model.kept(model, layout, items, autocast))

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _stages_read(cfg: DictConfig) -> set[str]:
    return {read for stage in cfg.stages for read in STAGES[stage].reads_with(cfg)}


def _lora(cfg: DictConfig, stage: str) -> Any:
    reward_model = STAGES[stage].trains.settings == "trainer"
    return lora_config(cfg.lora, *(("SEQ_CLS", ["score"]) if reward_model else ("CAUSAL_LM", None)))


def _trainings(stage: str, cfg: DictConfig) -> int:
    """How many models the stage trains."""
    if STAGES[stage].trains.settings == "trainer":
        return len(cfg.reward_model.margins) * len(cfg.reward_model.seeds)
    policy = cfg.policy
    found = 0
    for system in trained_by(stage, list(policy.systems)):
        points = len(grid(system, list(policy.beta), list(policy.learning_rate), 0))
        tried = 0 if points == 1 else (points - 1) * policy.grid_seeds
        found += tried + len(policy.seeds)
    return max(1, found)
