"""Confidence DPO: each pair is learned as far as a reward on the policy's own activations is sure of its label.

    L = -gamma log sigma(z) - (1 - gamma) log sigma(-z),   z = beta [log-ratio(y_c) - log-ratio(y_r)]

y_c and y_r are the chosen and the rejected answer, a log-ratio is log policy(y | x) - log reference(y | x), and gamma,
the confidence, is how likely the label is right. One forward of the policy gives the log-probabilities and, by hooks,
the states at the answers' ends. From those the hybrid reward gives gamma (pair_confidence.py), a constant to autograd;
after the step it is fitted to the pairs anew (live_reward.py). The loss is averaged over the pairs of the whole
optimiser step (pair_mean.py). TRL's DPOTrainer does the rest: data preparation, the reference model, LoRA, saving,
DeepSpeed and FSDP.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from alignment.data.chat import end_ids
from alignment.maths.pooling import find_spans
from alignment.models.activations import Reader, reading
from alignment.models.architecture import layer_count
from alignment.models.completions import add_completion_head, answer_log_probs, by_answer, token_log_probs
from alignment.models.devices import without_a_trace
from alignment.models.hybrid_reward import HybridReward
from alignment.models.packing import Layout, Packing, answers
from alignment.trainers.arguments import refuse_adapters, restore_adapters, settled
from alignment.trainers.cdpo_arguments import refuse_arguments
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.cdpo_metrics import PairRecord, fetch
from alignment.trainers.kept_calibrated import KeptCalibrated
from alignment.trainers.live_reward import LiveReward
from alignment.trainers.moved import moved_by
from alignment.trainers.objectives import objective_of
from alignment.trainers.own_data import check_numbers, data_sets, given_pairs, require_room
from alignment.trainers.pair_confidence import Judged, confidence_of
from alignment.trainers.pair_mean import PairMean
from alignment.trainers.pair_rows import cut, pair_of
from alignment.trainers.reference import REFERENCES, TOKENS, reference_of, with_reference_columns
from alignment.trainers.resuming import seal_checkpoints
from alignment.trainers.rows import LaidOutRows, RowCollator, longest
from alignment.trainers.start import check_objective, check_reference, fit_reward
from alignment.types import UserError


class ConfidenceDPOTrainer(LaidOutRows, PairMean, KeptCalibrated, DPOTrainer):
    """TRL's DPOTrainer with the confidence of ConfidenceDPOConfig, for any of TRL's preference data sets.

    reward: a HybridReward, or its folder; with None a reward is fitted at start on `args.reward_pairs` training pairs.
    calibration_dataset: pairs that neither policy nor reward learns from, labelled by others than the reward; the first
        of them keep "calibrated" calibrated (recalibration.py). Without them alpha stays as it is.
    revision: the commit on the hub that `model` was loaded from, where it is a model; the reference is loaded from it.
    Without it that of `args.model_init_kwargs` is taken; transformers doesn't note which one a model came from.
    """

    def __init__(
        self,
        model: Any,
        args: ConfidenceDPOConfig | None = None,
        train_dataset: Any = None,
        reward: HybridReward | str | Path | None = None,
        calibration_dataset: Any = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or ConfidenceDPOConfig()
        train_dataset, kwargs["eval_dataset"] = given_pairs(
            ConfidenceDPOConfig, args, train_dataset, kwargs.get("eval_dataset"), sorted(TOKENS), model,
            kwargs.get("processing_class"),
        )  # fmt: skip
        if calibration_dataset is not None:
            calibration_dataset, _ = given_pairs(
                ConfidenceDPOConfig, args, calibration_dataset, None, sorted(TOKENS), model,
                kwargs.get("processing_class"), "calibration_dataset",
            )  # fmt: skip
        refuse_arguments(args, train_dataset, reward, calibration_dataset, kwargs)
        if isinstance(reward, str | Path):
            reward = HybridReward.load(reward)
        self.starts_at_reference = kwargs.get("ref_model") is None
        self._pairs, self._given_pairs = PairRecord(), len(train_dataset)
        args = settled(args, model)
        if self.starts_at_reference:
            peft_config = kwargs.get("peft_config")
            revision = revision or (args.model_init_kwargs or {}).get("revision")
            kwargs["ref_model"] = reference_of(model, args.precompute_ref_log_probs, peft_config, revision)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        restore_adapters(self.model)
        self._prepare_rows()
        self.dropped_pairs = len(train_dataset) - len(self.train_dataset)
        self._refuse_models()
        policy, sum_over_ranks = self.inner(self.model), partial(self.accelerator.reduce, reduction="sum")
        device = self.accelerator.device
        self.confidence = confidence_of(args, policy.config.get_text_config(), device, sum_over_ranks)
        self.objective = objective_of(args, self.accelerator.process_index, device, sum_over_ranks)
        if reward is not None:
            self.confidence.take(reward)
        if calibration_dataset is not None:
            self.keep_calibrated(calibration_dataset)
        seal_checkpoints(self, self._save_beside)

    @property
    def live(self) -> LiveReward | None:
        """The reward that gamma comes from; None until there is a reward, or where gamma comes from elsewhere."""
        return self.confidence.live

    # ---- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        if return_outputs:
            raise UserError("predict", "the loss has no logits to give", "use evaluate, or generate answers")
        real_pairs = inputs.pop("real_pairs", None)
        judged = self.judge(model, inputs, real_pairs)
        losses = self.objective.losses(judged, self.beta, real_pairs, learning=self.model.training)
        if self.model.training:  # filler, and pairs with an answer cut short, teach the reward nothing
            self.confidence.learn(judged, [not cut for cut in inputs["cut"][:real_pairs]])
        self._pairs.add(judged, self.beta, real_pairs)
        return self.step_mean(losses, real_pairs, num_items_in_batch)

    def judge(self, model: nn.Module, inputs: dict[str, Any], real_pairs: int | None = None) -> Judged:
        """The log-ratio differences of a batch of pairs, and the confidence in their labels."""
        with self.reading(inputs, self.confidence.pooling) as reader:
            policy = token_log_probs(model, self.inner(model), self.layout, inputs)
        if self.precompute_ref_logps:
            reference, whole = None, torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        else:
            reference = self._reference_log_probs(self.ref_model or self.model, inputs)
            whole = by_answer(reference, inputs)
        log_ratios = by_answer(policy, inputs) - whole
        moved = moved_by(log_ratios, whole, policy, reference, inputs)
        chosen, rejected = (log_ratios / moved.tokens if self.objective.per_token else log_ratios).chunk(2)
        judged = self.confidence.judge(chosen - rejected, inputs, reader, real_pairs)
        return replace(judged, moved=moved)

    def reading(self, inputs: dict[str, Any], pooling: str | None) -> AbstractContextManager[Reader | None]:
        """Hooks on the policy's blocks for one forward pass; None where the confidence reads no states."""
        if pooling is None:
            return nullcontext()
        spans = find_spans(inputs["input_ids"], answers(inputs), self._end_ids, pooling)
        policy = self.inner(self.model)
        return reading(policy, range(1, layer_count(policy) + 1), spans)

    def compute_ref_log_probs(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The reference's log-probabilities of chosen and rejected answers."""
        return by_answer(self._reference_log_probs(model, inputs), inputs).chunk(2)

    def _reference_log_probs(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The reference's log-probability of every token of the answers; with LoRA the policy without adapters."""
        policy, adapters = self.inner(self.model), nullcontext()
        if self.ref_model is None and hasattr(policy, "peft_config"):
            adapters = use_adapter(policy, "ref" if "ref" in policy.peft_config else None)
        checkpointing = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), checkpointing, adapters, self.accelerator.autocast():
            return token_log_probs(model, self.inner(model), self.layout, inputs)

    # ---- before the first step ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """On every rank: fits a reward if none was given, prints the objective, and checks it."""
        super().begin()
        if self.confidence.needs_reward:
            self.confidence.take(fit_reward(self.train_dataset, self.args, self.accelerator, self.states_of))
            alpha = self.live.reward.alpha
            self.say(f"  a reward was fitted on training pairs; its alpha on held-out ones is {alpha:.3g}")
        self.say_once(f"  minimise the mean over pairs of {self.objective.describe(self.beta)}")
        if self.objective.reads_confidence:
            self.say_once(f"  {self.confidence.describe()}")
        self.check()

    def check(self) -> None:
        """Computes what training computes of one micro-batch, with the wrapped model, and leaves no trace."""
        args, device, batch = self.args, self.accelerator.device, self.batch_of(self.first_rows())
        with without_a_trace(device), self.aside() as model:
            judged = self.judge(model, batch)
        self.confidence.require_finite()
        if self.state.global_step == 0 and self.starts_at_reference:
            tokens = int((batch["answer_stop"] - batch["answer_start"]).max())
            half = args.bf16 or args.fp16 or self.model.dtype != torch.float32
            folder = f"{args.output_dir}/reference_log_probs" if self.precompute_ref_logps else None
            check_reference(judged.log_ratio_difference.float(), tokens, half, folder)
        check_objective(judged, self.beta, self.objective)
        self.confidence.check(judged, [not cut for cut in batch["cut"]])

    def states_of(self, rows: Sequence[Mapping[str, Any]], pooling: str) -> Tensor:
        """(pair, 2, layer, width): the states of chosen and rejected answers, as the policy now stands."""
        batch = self.batch_of(rows)
        no_targets = {name: batch[name][:0] for name in ("predictors", "targets", "target_answer")}  # for the head
        with self.aside() as model, self.reading(batch, pooling) as reader:
            token_log_probs(model, self.inner(model), self.layout, {**batch, **no_targets})
        return torch.stack(reader.states.chunk(2), dim=1)

    def read_answers(self, model: nn.Module, layout: Layout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For the check of packed rows: log-probabilities, and the states at the answers' ends."""
        with self.reading(batch, "endpoint") as reader:
            log_probs = answer_log_probs(model, self.inner(model), layout, batch)
        return {"log-probabilities": log_probs, "activations": reader.states}

    # ---- steps, logs, checkpoints ------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            metrics = self._pairs.summary(self.accelerator) | self.confidence.step() | self.objective.step()
            for name, value in metrics.items():
                self._metrics["train"][name].append(value)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Here, and nowhere in a step, the host waits for what the device has computed."""
        self.confidence.require_finite()
        fetch(self._metrics["train"])
        if not self.model.training and self._pairs:
            prefix = next((name.removesuffix("_loss") for name in logs if name.endswith("_loss")), "eval")
            metrics = {name: [value] for name, value in self._pairs.summary(self.accelerator).items()}
            fetch(metrics)
            logs.update({f"{prefix}_{name}": value for name, (value,) in metrics.items()})  # evaluate returns them
        super().log(logs, start_time)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """On resuming, the reward is loaded here: Trainer comes by under DDP, DeepSpeed and FSDP alike."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_beside(Path(checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_beside(Path(self.state.best_model_checkpoint))

    def _save_beside(self, folder: Path) -> None:
        self.confidence.save(folder)
        self.objective.save(folder)

    def _load_beside(self, folder: Path) -> None:
        self.confidence.load(folder)
        self.objective.load(folder)

    # ---- data and models ---------------------------------------------------------------------------------------------

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        self._prepare_rows()  # TRL's __init__ calls this method before it returns to ours
        return with_reference_columns(self, dataset, name, batch_size)

    def _prepare_rows(self) -> None:
        """Sets up collator and heads of our own, once TRL has the models."""
        if isinstance(self.data_collator, RowCollator):
            return
        for model in filter(None, (self.model, self.ref_model)):
            add_completion_head(self.inner(model))
        self._end_ids = end_ids(self._tokenizer, self.model.generation_config.eos_token_id)
        args, limit = self.args, self.args.max_length
        require_room(self.train_dataset, self._given_pairs, limit, "train_dataset")
        pad_id = self._tokenizer.pad_token_id
        packing = Packing(args.packing, args.packing_max_tokens)
        self.lay_out(packing, pad_id, self._longest)
        columns = REFERENCES + (("confidence",) if args.confidence == "column" else ())
        self.data_collator = RowCollator(self.layout, partial(pair_of, limit=limit), columns, partial(cut, limit=limit))

    def _longest(self) -> int:
        """Tokens of the longest text of any data set."""
        given = (self.train_dataset, *data_sets(self.eval_dataset))
        tokens = longest(pair_of, *(pairs for pairs in given if pairs is not None))
        return min(tokens, self.args.max_length or tokens)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Rows that hold token ids stay as they are, except that those whose prompt leaves no room are left out."""
        if not set(TOKENS).issubset(dataset.column_names or ()):
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

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.confidence.needs_reward:
            raise UserError("evaluate", "there is no reward before training begins", "train first, or give reward=")
        if self.args.confidence == "column":
            check_numbers(eval_dataset, "eval_dataset", "confidence", 0, 1)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _refuse_models(self) -> None:
        if self._is_vision_dataset:
            raise UserError("train_dataset", "it holds images", "give text")
        self.refuse_routers(self.args.without_router_loss)
        refuse_adapters(self.model)
