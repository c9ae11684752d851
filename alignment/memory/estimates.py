"""Estimates, from the configuration, of each stage on each rank: parameters, memory by what it is for, and tokens.

Models are built on the meta device and data are sampled: no weights are loaded or downloaded, and no GPU is touched.
"""

import math
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig

from alignment.evaluation.pair_scores import SCORED_TOKENS
from alignment.memory import meta_model, parts, planned_texts
from alignment.memory.machine import Machine
from alignment.memory.model_memory import ModelMemory
from alignment.memory.parts import Memory, Setting, Shape
from alignment.memory.planned_states import PlannedStates, induced_states, left_to_read, planned_states
from alignment.memory.planned_texts import Texts
from alignment.memory.trained_models import trainings
from alignment.models.answer_states import PLACES
from alignment.models.fit_heads import fitting_bytes
from alignment.models.load import context_of
from alignment.models.packing import Item
from alignment.policies.systems import SYSTEMS, evaluated, trained_by
from alignment.runs.ranks import batch_shape
from alignment.runs.run_files import RunDir
from alignment.stages import STAGES
from alignment.trainers.arguments import lora_config

STATES_OF_A_PAIR = 2 * (4 + 3 * 8)  # bytes for each number: as read, and in float64 for the re-fit of a live reward


@dataclass(frozen=True)
class Estimate:
    """What one stage takes. step: tokens of an optimiser step or a batch; total: tokens read and written in all.
    once: tokens that frozen lower blocks read beforehand."""

    stage: str
    layout: str
    shape: Shape
    memory: Memory
    texts: Texts
    step: int
    total: int
    once: int = 0


class Estimator(ModelMemory):
    """Estimates stages under any settings of one run; texts and models that they share are read and built once."""

    def __init__(self, cfg: DictConfig, run: RunDir, machine: Machine) -> None:
        super().__init__(cfg, machine)
        self._train, self._heldout = planned_texts.pairs(cfg)
        self._transferred = planned_texts.transferred(cfg, context_of(self._config))
        stages_read = {read for stage in cfg.stages for read in STAGES[stage].reads_with(cfg)}
        self._built = planned_texts.built(cfg, run, self._train) if "build_pairs" in stages_read else None

    def states(self, cfg: DictConfig) -> PlannedStates | None:
        """What read_states keeps; None in a run without it."""
        return self._once("states", lambda: planned_states(cfg, self._config.get_text_config()))

    def estimate(self, stage: str, cfg: DictConfig) -> Estimate:
        """stage: one that trains a model, or whose entry in STAGES names its estimate."""
        if STAGES[stage].trains:
            return self._training(stage, cfg)
        return getattr(self, f"_{STAGES[stage].model.estimate}")(stage, cfg)

    # ---- trainings --------------------------------------------------------------------------------------------------

    def _training(self, stage: str, cfg: DictConfig) -> Estimate:
        """The training that takes most memory, of the systems that the stage trains; its total is of them all."""
        sets = [self._train]
        if STAGES[stage].trains.settings == "policy":
            stars = {SYSTEMS[name].star for name in trained_by(stage, list(cfg.policy.systems))}
            sets = [self._built if star else self._train for star in sorted(stars)] or sets
        estimates = [self._trained_on(stage, cfg, texts) for texts in sets]
        largest = max(estimates, key=lambda estimate: estimate.memory.peak)
        return replace(largest, total=sum(estimate.total for estimate in estimates))

    def _trained_on(self, stage: str, cfg: DictConfig, texts: Texts) -> Estimate:
        trains = STAGES[stage].trains
        settings = cfg[trains.settings]
        setting, micro = self._setting(stage, cfg)
        reward_model = trains.settings == "trainer"
        lora = lora_config(cfg.lora, *(("SEQ_CLS", ["score"]) if reward_model else ("CAUSAL_LM", None)))
        split = setting.layout.startswith(("zero", "fsdp2"))
        dtype = torch.bfloat16 if setting.half and split else torch.float32
        kind, blocks = ("reward", settings.upper_blocks) if reward_model else ("language", None)
        model = self._model(kind, dtype, lora, blocks)
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
        shape = shape if blocks is None else meta_model.with_frozen(shape, self._model(kind, dtype, lora))
        live = trains.live_reward and cfg.confidence.source != "column"
        hidden = micro * STATES_OF_A_PAIR * shape.layers * shape.width if live else 0
        memory = parts.training(shape, kept, setting, hidden)
        memory = replace(memory, around=max(memory.around, self._after(stage, cfg, shape, texts)))
        mean = sum(layout.size(item) for item in texts.items) / len(texts.items)
        total = round(steps * settings.batch_size * mean) * trainings(stage, cfg)
        step, once = round(settings.batch_size * mean), round((texts.count + self._heldout.count) * mean)
        once += sum(round(others.count * others.mean) for others in self._transferred)
        return Estimate(stage, setting.layout, shape, memory, texts, step, total, 0 if blocks is None else once)

    def _setting(self, stage: str, cfg: DictConfig) -> tuple[Setting, int]:
        """How the stage's trainings are run, and how many pairs a micro-batch has."""
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
        """The most bytes held after a training: adapters are merged on the CPU, a reward model's pairs are scored."""
        weights = 4 * shape.parameters
        merged = 0 if self.machine.gpu or cfg.lora.name == "none" else 2 * weights + parts.overhead(False)
        if STAGES[stage].trains.settings == "policy":
            return merged
        scored = [texts, *self._transferred]
        return max(merged, *(self._read(cfg, "reward", some, SCORED_TOKENS, torch.float32).peak for some in scored))

    # ---- inference --------------------------------------------------------------------------------------------------

    def _read_states(self, stage: str, cfg: DictConfig) -> Estimate:
        texts, tokens, states = self._train, cfg.reward.batch_tokens, self.states(cfg)
        memory = self._read(cfg, "backbone", texts, tokens, states=1)
        total = 0 if states is None else round(states.share * states.answers * texts.mean / 2)
        return self._inference(stage, cfg, "backbone", memory, texts, tokens, total)

    def _induce(self, stage: str, cfg: DictConfig) -> Estimate:
        contrast, tokens = cfg.annotator.contrast, cfg.annotator.batch_tokens
        texts = self._once("questions", lambda: planned_texts.questions(cfg, self._train))
        if contrast.file is not None or contrast.labelled is not None:  # no model is loaded
            memory = Memory(other=parts.overhead(self.machine.gpu))
            return self._inference(stage, cfg, "language", memory, texts, tokens=0, total=0)
        memory = self._sample(cfg, texts, 1, contrast.max_new_tokens, tokens, greedy=True)
        return self._inference(stage, cfg, "language", memory, texts, tokens, round(texts.count * texts.mean))

    def _annotate(self, stage: str, cfg: DictConfig) -> Estimate:
        texts, tokens = self._train, cfg.annotator.batch_tokens
        total = (texts.count + self._heldout.count) * texts.mean
        memory = self._read(cfg, "backbone", texts, tokens, states=1)
        total = left_to_read(self.states(cfg), stage, total)
        held = induced_states(cfg, self._config.get_text_config())
        name = "host" if self.machine.gpu else "hidden"
        memory = replace(memory, **{name: getattr(memory, name) + held})
        return self._inference(stage, cfg, "backbone", memory, texts, tokens, total)

    def _fit_reward(self, stage: str, cfg: DictConfig) -> Estimate:
        """In the end every rank holds all layers of all answers in float32, of a fold's again, and one fits to them."""
        folds, tokens = stage == "cross_validate", cfg.reward.batch_tokens
        texts, world = self._train if folds else self._train.first(cfg.reward.pairs), cfg.data.name == "world"
        count = texts.count + self._heldout.count + (3 * cfg.data.evaluation if world and not folds else 0)
        memory = self._read(cfg, "backbone", texts, tokens, states=1)
        text_config = self._config.get_text_config()
        states = (1 + folds) * count * 2 * 4 * text_config.num_hidden_layers * text_config.hidden_size
        shape = text_config.num_hidden_layers, text_config.hidden_size
        threads, fitted = 1 if self.machine.gpu else torch.get_num_threads(), texts.count + folds * self._heldout.count
        host, products = fitting_bytes(fitted, *shape, threads)
        if self.machine.gpu:
            memory = replace(memory, host=memory.host + states + host, hidden=memory.hidden + products)
        else:
            memory = replace(memory, hidden=memory.hidden + states + host + products)
        total = left_to_read(self.states(cfg), stage, count * texts.mean)
        return self._inference(stage, cfg, "backbone", memory, texts, tokens, total)

    def _read_answers(self, stage: str, cfg: DictConfig) -> Estimate:
        """The states of all layers at each place; and, of the prompts that are learned from, the same at their end."""
        texts, prompts = self._once(
            "labelled answers", lambda: planned_texts.labelled_answers(cfg, context_of(self._config))
        )
        tokens = cfg.guard.batch_tokens
        memory = self._read(cfg, "backbone", texts, tokens, states=len(PLACES))
        total = round(texts.count * texts.mean + prompts.count * prompts.mean)
        return self._inference(stage, cfg, "backbone", memory, texts, tokens, total)

    def _build_pairs(self, stage: str, cfg: DictConfig) -> Estimate:
        prompts = self._train.first(cfg.build_pairs.prompts).count
        return self._sampled(stage, cfg, prompts, cfg.sampling.n, {cfg.build_pairs.scorer})

    def _evaluate(self, stage: str, cfg: DictConfig) -> Estimate:
        """Every policy answers every set; a trained one has the weights that policy.save_dtype says, unless model.dtype
        names another type."""
        systems = list(cfg.policy.systems)
        prompts = planned_texts.asked_prompts(cfg, cfg.evaluation.sets, self._heldout.count)
        answers, scorers = (cfg.sampling.n, {"hybrid"}) if "rs_star" in systems else (1, set())
        trained = any(SYSTEMS[name].stage for name in systems)
        own = self.dtype(cfg)
        saved = getattr(torch, cfg.policy.save_dtype, own) if trained and cfg.model.dtype == "auto" else own
        widest = max(own, saved, key=lambda dtype: dtype.itemsize)
        times = len(evaluated(cfg)) * len(cfg.policy.seeds)
        return self._sampled(stage, cfg, prompts, answers, scorers, times, widest)

    def _best_of_n(self, stage: str, cfg: DictConfig) -> Estimate:
        best, sets = cfg.best_of_n, ["data"] if cfg.data.name == "world" else cfg.evaluation.sets
        prompts = planned_texts.asked_prompts(cfg, sets, self._heldout.count)
        return self._sampled(stage, cfg, prompts, max(best.counts), set(best.scorers))

    def _sampled(
        self, stage: str, cfg: DictConfig, prompts: int, count: int, scorers: set[str], times: int = 1,
        dtype: torch.dtype | None = None,
    ) -> Estimate:  # fmt: skip
        """`count` answers to every prompt are sampled, and read again by each scorer; all of that so many `times`."""
        tokens, new_tokens = cfg.sampling.batch_tokens, cfg.sampling.max_new_tokens
        texts = self._train.answered(count, new_tokens, prompts)
        memory = [self._sample(cfg, texts, count, new_tokens, tokens, greedy=False, dtype=dtype)]
        single = self._train.answered(1, new_tokens, prompts * count)  # scored in rows of one answer each
        for scorer in scorers & {"hybrid", "reward_model"}:
            kind, scorer_dtype = ("language", dtype) if scorer == "hybrid" else ("reward", torch.float32)
            memory.append(self._read(cfg, kind, single, tokens, scorer_dtype, states=int(scorer == "hybrid")))
        total = round(times * prompts * texts.mean)
        return self._inference(stage, cfg, "language", parts.in_turn(memory), texts, tokens, total)

    def _inference(
        self, stage: str, cfg: DictConfig, kind: str, memory: Memory, texts: Texts, tokens: int, total: int
    ) -> Estimate:
        shape = replace(meta_model.shape(self._model(kind, torch.float32, None)), trainable=0)
        return Estimate(stage, self.machine.layout(cfg, stage), shape, memory, texts, min(tokens, total), total)
