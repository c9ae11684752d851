"""Confidence DPO: each pair is learned as far as a reward on the policy's own activations is sure of it.

    L = -gamma log sigma(z) - (1 - gamma) log sigma(-z),   z = beta [log-ratio(y_c) - log-ratio(y_r)]

One forward of the policy gives the log-probabilities and, by hooks, the states at the answers' ends; from those the
hybrid reward gives gamma, a constant to autograd, and is then re-fitted (live_reward.py). TRL's DPOTrainer does the
rest: data preparation, the reference model, LoRA, saving, DeepSpeed and FSDP.
"""

import copy
from collections.abc import Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from alignment.data.chat import end_ids
from alignment.maths.confidence import paper_confidence, released_confidence, released_means
from alignment.maths.losses import confidence_dpo_loss
from alignment.maths.pooling import find_spans
from alignment.models.activations import Reader, layer_count, reading
from alignment.models.completions import add_completion_head, answer_log_probs, trl_log_probs
from alignment.models.hybrid_reward import HybridReward
from alignment.models.packing import Item, Layout, Packing, answers
from alignment.trainers.arguments import adapters_in_float32, keep_dropout, within_context
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.cdpo_metrics import PairRecord
from alignment.trainers.checkpoints import seal_checkpoints
from alignment.trainers.live_reward import LiveReward
from alignment.trainers.one_device import on_one_device
from alignment.trainers.own_data import check_pairs, plain, require_room
from alignment.trainers.pair_mean import PairMean
from alignment.trainers.reference import ReferenceLogProbs, reference_of
from alignment.trainers.rows import LaidOutRows, RowCollator
from alignment.trainers.start import Start
from alignment.types import StageFailed, UserError

TOKENS = {"prompt_ids", "chosen_ids", "rejected_ids"}
REFERENCES = ("ref_chosen_logps", "ref_rejected_logps")


class ConfidenceDPOTrainer(ReferenceLogProbs, LaidOutRows, PairMean, DPOTrainer):
    """TRL's DPOTrainer with the confidence of ConfidenceDPOConfig, for any of TRL's preference data sets.

    reward: a HybridReward, or the folder of one; None fits one at start on `args.reward_pairs` training pairs.
    revision: of the hub, from which a model that is given was loaded: the reference is loaded from there again.
    """

    def __init__(
        self,
        model: Any,
        args: ConfidenceDPOConfig | None = None,
        train_dataset: Any = None,
        reward: HybridReward | str | Path | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or ConfidenceDPOConfig()
        _check_arguments(args, train_dataset, reward, kwargs)
        train_dataset, kwargs["eval_dataset"] = plain(train_dataset), plain(kwargs.get("eval_dataset"))
        for name, data in (("train_dataset", train_dataset), ("eval_dataset", kwargs["eval_dataset"])):
            check_pairs(data, name, sorted(TOKENS), args, model, kwargs.get("processing_class"))
        if isinstance(reward, str | Path):
            reward = HybridReward.load(reward)
        self.live: LiveReward | None = None
        self.starts_at_reference = kwargs.get("ref_model") is None
        self._pairs, self._given_pairs = PairRecord(), len(train_dataset)
        args = copy.copy(args)  # what is settled here isn't the caller's
        on_one_device(args, model)
        within_context(args, model)
        if self.starts_at_reference and _has_reference_beside_it(model, args, kwargs.get("peft_config")):
            kwargs["ref_model"] = reference_of(model, revision)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        adapters_in_float32(self.model)
        keep_dropout(self.model)
        self._prepare_rows()
        self.dropped_pairs = len(train_dataset) - len(self.train_dataset)
        self._refuse_models()
        self._end_ids = end_ids(self._tokenizer, self.model.generation_config.eos_token_id)
        if reward is not None:
            self.take_reward(reward)
        self.add_callback(Start(self))
        seal_checkpoints(self, self.save_beside)

    # ---- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Tensor:
        if return_outputs:
            raise UserError("predict", "the loss has no logits to give", "use evaluate, or generate answers")
        real_pairs = inputs.pop("real_pairs", None)
        batch = self.judge(model, inputs, real_pairs)
        losses = self.pair_losses(batch.log_ratio_difference, batch.confidence, self.beta)
        if self.live is not None and self.model.training:
            fit = ~inputs["cut"][:real_pairs]  # filler, and answers cut short, teach the reward nothing
            self.live.add(batch.chosen_states[:real_pairs][fit], batch.rejected_states[:real_pairs][fit])
        self._pairs.add(batch, self.beta, real_pairs)
        return self.step_mean(losses, real_pairs, num_items_in_batch)

    @staticmethod
    def pair_losses(difference: Tensor, confidence: Tensor, beta: float) -> Tensor:
        """The objective, which the check at start puts to the test."""
        return confidence_dpo_loss(beta * difference, confidence)

    def judge(self, model: torch.nn.Module, inputs: dict[str, Any], real_pairs: int | None = None) -> "Judged":
        """What the policy says about a batch of pairs, and how sure the reward is of their labels."""
        live = self.live
        with nullcontext() if live is None else self.reading(inputs, live.reward.pooling) as reader:
            log_probs = answer_log_probs(model, self.inner(model), self.layout, inputs)
        if self.precompute_ref_logps:
            reference = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        else:
            reference = torch.cat(self.compute_ref_log_probs(self.ref_model or self.model, inputs))
        chosen, rejected = (log_probs - reference).chunk(2)
        difference = chosen - rejected
        if live is None:
            confidence = self._static_confidence(inputs, difference)
            return Judged(difference, confidence)
        states = reader.states
        if not bool(states.isfinite().all()):
            raise StageFailed("policy", "its activations are no longer finite numbers", "lower the learning rate")
        rewards, gate_weights = live.rewards(states)
        confidence = self.live_confidence(rewards, real_pairs)
        return Judged(difference, confidence.to(difference.dtype), states, rewards, gate_weights)

    def compute_ref_log_probs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of chosen and rejected answers; with LoRA those of the policy without its adapters."""
        policy, adapters = self.inner(self.model), nullcontext()
        if self.ref_model is None and hasattr(policy, "peft_config"):
            adapters = use_adapter(policy, "ref" if "ref" in policy.peft_config else None)
        checkpointing = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), checkpointing, adapters, self.accelerator.autocast():
            return answer_log_probs(model, self.inner(model), self.layout, inputs).chunk(2)

    def reading(self, inputs: dict[str, Any], pooling: str) -> AbstractContextManager[Reader]:
        """Hooks on the policy's blocks, open for one forward pass."""
        spans = find_spans(inputs["input_ids"], answers(inputs), self._end_ids, pooling)
        policy = self.inner(self.model)
        return reading(policy, range(1, layer_count(policy) + 1), spans)

    def read_answers(self, model: torch.nn.Module, layout: Layout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For the check at start: log-probabilities, and the states at the answers' ends."""
        log_probs = answer_log_probs if layout.packed else _trl_answer_log_probs
        with self.reading(batch, "endpoint") as reader:
            found = log_probs(model, self.inner(model), layout, batch)
        return {"log-probabilities": found, "activations": reader.states}

    # ---- the confidence ----------------------------------------------------------------------------------------------

    def _static_confidence(self, inputs: dict[str, Any], like: Tensor) -> Tensor:
        if self.args.confidence == "column":
            return inputs["confidence"].to(like.dtype)
        return torch.full_like(like, self.args.fixed_confidence)

    def live_confidence(self, rewards: Tensor, real_pairs: int | None) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        if self.args.confidence == "released":
            sums = self.accelerator.reduce(released_means(chosen[:real_pairs], rejected[:real_pairs]), "sum")
            return released_confidence(sums, self.args.alpha).expand_as(chosen)
        alpha = self.live.reward.alpha if self.args.confidence == "calibrated" else self.args.alpha
        return paper_confidence(chosen, rejected, alpha)

    def take_reward(self, reward: HybridReward) -> None:
        """Makes a reward the live one, on this rank's device."""
        args, policy = self.args, self.inner(self.model)
        own = (layer_count(policy), policy.config.get_text_config().hidden_size)
        if tuple(reward.weight.shape) != own:
            layers, width = reward.weight.shape
            raise UserError(
                "reward", f"it reads {layers} layers of {width}, and the policy has {own[0]} of {own[1]}",
                "fit it on this policy, or leave it out",
            )  # fmt: skip
        reward = reward.to(self.accelerator.device)
        if args.confidence == "calibrated":
            if reward.alpha is None:
                raise UserError("reward", "it was never calibrated", "fit it with HybridReward.fit")
            if reward.alpha == 0:
                raise UserError(
                    "reward", "it orders held-out pairs no better than chance: every confidence would be 1/2, and "
                    "nothing learned", "give more pairs, or ones whose labels can be seen in the activations",
                )  # fmt: skip
        self.live = LiveReward(reward, args.refit, args.refit_margin, args.refit_learning_rate, args.refit_weight_decay)

    # ---- steps, logs, checkpoints ------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            head_loss = None
            if self.live is not None:
                head_loss = self.live.step(lambda sums: self.accelerator.reduce(sums, "sum"))
            self._metrics["train"].update(
                {name: [*self._metrics["train"][name], value] for name, value in self._step_metrics(head_loss).items()}
            )
        return loss

    def _step_metrics(self, head_loss: float | None) -> dict[str, float]:
        metrics = self._pairs.summary(self.accelerator)
        return metrics if head_loss is None else {**metrics, "head_loss": head_loss}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not self.model.training and self._pairs:
            prefix = next((name.removesuffix("_loss") for name in logs if name.endswith("_loss")), "eval")
            found = self._pairs.summary(self.accelerator).items()
            logs.update({f"{prefix}_{name}": value for name, value in found})  # in place: evaluate returns them
        super().log(logs, start_time)

    def save_beside(self, folder: Path) -> None:
        if self.live is not None:
            self.live.save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_live_reward(Path(checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_live_reward(Path(self.state.best_model_checkpoint))

    def _load_live_reward(self, checkpoint: Path) -> None:
        """The one seam through which the reward comes back, under DDP, DeepSpeed and FSDP alike."""
        if not self.args.live:
            return
        if self.live is None:
            self.take_reward(HybridReward.load(checkpoint / "reward"))
        self.live.load(checkpoint)

    # ---- data and models ---------------------------------------------------------------------------------------------

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        self._prepare_rows()  # TRL's __init__ calls this before ours goes on
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _prepare_rows(self) -> None:
        """Collator and heads of our own, once TRL has made the models."""
        if isinstance(self.data_collator, RowCollator):
            return
        for model in (self.model, self.ref_model):
            if model is not None:
                inner = self.inner(model)
                add_completion_head(inner.get_base_model() if hasattr(inner, "peft_config") else inner)
        args, limit = self.args, self.args.max_length
        require_room(self.train_dataset, self._given_pairs, limit, "train_dataset")
        pad_id = self._tokenizer.pad_token_id
        packing = Packing(args.packing, args.packing_max_tokens)
        self.lay_out(packing, pad_id, self._longest, args.pad_to_multiple_of)
        columns = REFERENCES + (("confidence",) if args.confidence == "column" else ())
        self.data_collator = _PairCollator(self.layout, partial(_pair, limit=limit), columns, limit)

    def _longest(self) -> int:
        """Tokens of the longest text of any data set."""
        named = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval": self.eval_dataset}
        sets = [pairs for pairs in (self.train_dataset, *named.values()) if pairs is not None]
        longest = max(_pair(row).longest for pairs in sets for row in pairs.select_columns(sorted(TOKENS)))
        return min(longest, self.args.max_length or longest)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: ConfidenceDPOConfig, dataset_name: str
    ) -> Any:
        """Rows that hold token ids already are taken as they are, but for prompts that leave no room for an answer."""
        if not TOKENS.issubset(dataset.column_names or ()):
            return super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        for row, pair in enumerate(dataset.select_columns(["chosen_ids", "rejected_ids"])):
            if not pair["chosen_ids"] or not pair["rejected_ids"]:
                raise UserError(f"{dataset_name} data set", f"row {row} has an answer without tokens", "leave it out")
        if args.max_length is None:
            return dataset
        return dataset.filter(lambda row: len(row["prompt_ids"]) < args.max_length)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.args.confidence == "column" and "confidence" not in self._signature_columns:
            self._signature_columns.append("confidence")

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        if self.args.live and self.live is None:
            raise UserError("evaluate", "there is no reward before training begins", "train first, or give reward=")
        if self.args.confidence == "column":
            _check_columns(eval_dataset, "eval_dataset")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _refuse_models(self) -> None:
        if self._is_vision_dataset:
            raise UserError("train_dataset", "it holds images", "give text")
        if self.aux_loss_enabled:
            raise UserError(
                "model", "it is a mixture of experts, whose routers' loss this one leaves out",
                "set router_aux_loss_coef=0 in its configuration",
            )  # fmt: skip
        if hasattr(self.model.get_output_embeddings(), "base_layer"):
            raise UserError(
                "peft_config", "the language-model head can't have adapters", "leave it out of target_modules"
            )
        peft = getattr(self.model, "peft_config", {})
        if any(getattr(config, "is_prompt_learning", False) for config in peft.values()):
            raise UserError("peft_config", "learned prompts move the positions that are read", "use LoRA")


@dataclass(frozen=True)
class Judged:
    """A batch of pairs: the policy's log-ratio differences and the confidence in the labels.

    states, rewards and gate weights, of a live source: chosen rows first, then rejected ones.
    """

    log_ratio_difference: Tensor
    confidence: Tensor
    states: Tensor | None = None
    rewards: Tensor | None = None
    gate_weights: Tensor | None = None

    @property
    def chosen_states(self) -> Tensor:
        return self.states[: len(self.confidence)]

    @property
    def rejected_states(self) -> Tensor:
        return self.states[len(self.confidence) :]


@dataclass
class _PairCollator(RowCollator):
    """A batch of pairs, with those marked that lost the end of an answer to max_length."""

    max_length: int | None = None

    def beside(self, rows: Sequence[Mapping[str, Any]], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        limit = self.max_length or float("inf")
        return {"cut": torch.tensor([_pair(row).longest > limit for row in rows])}


def _pair(row: Mapping[str, Any], limit: int | None = None) -> Item:
    """A pair as an item; what is longer than `limit` is cut off its answers."""
    room = None if limit is None else limit - len(row["prompt_ids"])
    return Item(row["prompt_ids"], [row["chosen_ids"][:room], row["rejected_ids"][:room]])


def _trl_answer_log_probs(model: torch.nn.Module, inner: Any, layout: Layout, batch: dict[str, Tensor]) -> Tensor:
    per_token = trl_log_probs(model, inner, layout, batch)
    return per_token.new_zeros(len(batch["answer_row"])).index_add(0, batch["target_answer"], per_token)


def _has_reference_beside_it(model: Any, args: ConfidenceDPOConfig, peft_config: Any) -> bool:
    """Or else TRL sees to it: adapters are switched off, log-probabilities are there before, a name is loaded twice."""
    return isinstance(model, PreTrainedModel) and peft_config is None and not args.precompute_ref_log_probs


def _check_arguments(args: Any, train_dataset: Any, reward: Any, others: dict[str, Any]) -> None:
    """What can't work is refused before a model is loaded."""
    if not isinstance(args, ConfidenceDPOConfig):
        raise UserError("args", f"{type(args).__name__} is not a ConfidenceDPOConfig", "use ConfidenceDPOConfig")
    if not isinstance(train_dataset, Sized):
        raise UserError("train_dataset", "its length is not known, and the loss is a mean over pairs", "give a Dataset")
    if others.get("data_collator") is not None:
        raise UserError("data_collator", "ConfidenceDPOTrainer has its own", "leave it out; images don't work")
    if others.get("compute_metrics") is not None:
        raise UserError("compute_metrics", "the loss has no logits to give", "leave it out; the log has the metrics")
    if reward is not None and not args.live:
        raise UserError("reward", f"confidence={args.confidence!r} uses none", "leave one of the two out")
    if reward is not None:
        for name in ("gate", "pooling", "reward_pairs"):
            if not args.is_default(name):
                raise UserError(name, "it would have no effect: a reward is given", "leave it out")
    if args.confidence == "column":
        _check_columns(train_dataset, "train_dataset")
        _check_columns(others.get("eval_dataset"), "eval_dataset")


def _check_columns(data: Any, name: str) -> None:
    """Of one data set, or of several by name; an evaluation set that is only named was checked when it was given."""
    if isinstance(data, dict):
        for one in data.values():
            _check_columns(one, name)
    elif data is not None and not isinstance(data, str):
        _check_column(data, name)


def _check_column(pairs: Any, name: str) -> None:
    if "confidence" not in (getattr(pairs, "column_names", None) or ()):
        raise UserError(name, "it has no column `confidence`", "add one, or choose another confidence")
    values: Sequence = pairs["confidence"]
    for row, value in enumerate(values):
        known = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if not known or not 0 <= value <= 1:
            raise UserError(name, f"the confidence of row {row} is {value!r}", "give numbers from 0 to 1")
