"""What happens once, before the first step: a reward is fitted if none was given, the objective is said, and checked.

The check runs what training runs, with the wrapped model and one micro-batch. At step 0 policy and reference agree,
so z = 0 and the loss is log 2 whatever beta and gamma are; the log-ratio difference is therefore shifted by 1. It
leaves no trace: losses with and without it are the same bit for bit.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import TrainerCallback

from alignment.models.completions import token_log_probs
from alignment.models.hybrid_reward import HybridReward
from alignment.trainers.live_reward import LiveReward
from alignment.types import StageFailed, UserError

if TYPE_CHECKING:
    from alignment.trainers.cdpo import ConfidenceDPOTrainer

SAME_POLICY = 1e-2  # nats a log-ratio may be off at step 0; in half precision for every token of an answer
PINNED = 1e-6  # this near to 0 or 1 a confidence can't be seen to move


class Start(TrainerCallback):
    """Runs when training begins, on every rank."""

    def __init__(self, trainer: "ConfidenceDPOTrainer") -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        if args.live and trainer.live is None:
            trainer.take_reward(fit_reward(trainer))
            if state.is_world_process_zero:
                alpha = trainer.live.reward.alpha
                print(f"  a reward was fitted on training pairs; its alpha on held-out ones is {alpha:.3g}", flush=True)
        if state.is_world_process_zero:
            print(objective(trainer), flush=True)
        check(trainer)


def objective(trainer: "ConfidenceDPOTrainer") -> str:
    """The objective with its numbers, as it will be optimised."""
    args = trainer.args
    gamma = {
        "paper": f"γ = σ({args.alpha:g} (R_c - R_r)) per pair",
        "released": f"γ = max(σ({args.alpha:g} (mean σ(R_c) - mean σ(R_r))), 1/2) per micro-batch of all ranks: "
        "results depend on its size",
        "column": "γ = the column `confidence`, per pair",
        "fixed": f"γ = {args.fixed_confidence} for every pair" + (" (DPO)" if args.fixed_confidence == 1 else ""),
    }
    if trainer.live is not None and args.confidence == "calibrated":
        gamma["calibrated"] = f"γ = σ({trainer.live.reward.alpha:.3g} (R_c - R_r)) per pair, calibrated"
    said = (
        "  minimise the mean over pairs of -γ log σ(z) - (1 - γ) log σ(-z), "
        f"z = {args.beta:g} (log-ratio of y_c - of y_r)\n  {gamma[args.confidence]}"
    )
    if trainer.live is None:
        return said
    refit = {
        "margin": f"re-fitted each step on -log σ(R_c - R_r - {args.refit_margin:g})",
        "no_margin": "re-fitted each step on -log σ(R_c - R_r)",
        "off": "not re-fitted",
    }[args.refit]
    if args.refit != "off":
        refit += f" by AdamW, rate {args.refit_learning_rate:g}, weight decay {args.refit_weight_decay:g}"
    reward = trainer.live.reward
    return f"{said}; R: {reward.gate} over {reward.weight.shape[0]} layers at the {reward.pooling}, {refit}"


# ---- the reward -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def fit_reward(trainer: "ConfidenceDPOTrainer") -> HybridReward:
    """A hybrid reward on the first training pairs that max_length leaves whole, as the policy now stands.

    Forward passes go through the wrapped model (ZeRO-3 and FSDP gather weights there), dealt to the ranks in turn.
    """
    args = trainer.args
    pooling = args.pooling or "endpoint"
    limit = args.max_length or float("inf")
    pairs = trainer.train_dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    whole = []
    for i, row in enumerate(pairs):
        if len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= limit:
            whole.append(i)
        if len(whole) == args.reward_pairs:
            break
    if len(whole) < 20:
        raise UserError("train_dataset", f"{len(whole)} pairs fit into max_length", "give 20 or more, or a reward")
    model, size = trainer.model_wrapped, args.per_device_train_batch_size
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    ranks, rank = args.world_size, args.process_index
    for start in range(0, len(whole), size * ranks):
        mine = whole[start + rank * size : start + (rank + 1) * size]
        batch = _batch(trainer, mine or whole[:1])  # a rank without rows must still take part in the forward
        states = policy_states(trainer, model, batch, pooling)
        if mine:
            found.append(states.float().cpu())
    model.train(was_training)
    states = torch.cat(found) if found else None
    return _fit_on_main(trainer, states, pooling, len(whole), size)


def policy_states(trainer: "ConfidenceDPOTrainer", model: torch.nn.Module, batch: dict, pooling: str) -> Tensor:
    """(pair, 2, layer, width): the states of chosen and rejected answers."""
    nothing = {name: batch[name][:0] for name in ("predictors", "targets", "target_answer")}  # no head is needed
    with trainer.reading(batch, pooling) as reader, trainer.compute_loss_context_manager():
        token_log_probs(model, trainer.inner(model), trainer.layout, {**batch, **nothing})
    return torch.stack(reader.states.chunk(2), dim=1)


def _fit_on_main(
    trainer: "ConfidenceDPOTrainer", states: Tensor | None, pooling: str, count: int, size: int
) -> HybridReward:
    """Gathers the states, fits on the main process, and gives every rank the same reward."""
    accelerator, ranks = trainer.accelerator, trainer.args.world_size
    rounds = -(-count // (size * ranks))
    shape = [None if states is None else tuple(states.shape[1:])]
    gathered = []
    broadcast_object_list(shape)
    for i in range(rounds):
        here = states[i * size : (i + 1) * size] if states is not None else torch.zeros(0, *shape[0])
        filler = here.new_zeros(size - len(here), *shape[0])
        both = accelerator.gather(torch.cat([here, filler]).to(accelerator.device)).cpu()
        gathered.append(both[: count - i * size * ranks])  # filler is behind the pairs of the last round
    everything = torch.cat(gathered)
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            gate = {} if trainer.args.gate is None else {"gate": trainer.args.gate}
            seed = trainer.args.seed
            reward = HybridReward.fit(everything[:, 0], everything[:, 1], seed=seed, pooling=pooling, **gate)
            outcome = [(reward, None)]
        except UserError as error:
            outcome = [(None, error)]
    broadcast_object_list(outcome)
    reward, error = outcome[0]
    if error is not None:
        raise error
    return reward


def _batch(trainer: "ConfidenceDPOTrainer", rows: list[int]) -> dict[str, Any]:
    """Training pairs as the loss sees them."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in rows])
    return {name: value.to(trainer.accelerator.device) for name, value in batch.items()}


# ---- the check ------------------------------------------------------------------------------------------------------


def check(trainer: "ConfidenceDPOTrainer") -> None:
    """StageFailed if beta, gamma or the re-fit turn out to change nothing, or the reference isn't the policy."""
    rows = range(min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset)))
    batch = _batch(trainer, list(rows))
    model = trainer.model_wrapped
    was_training = model.training
    model.eval()
    device = trainer.accelerator.device
    no_trace = torch.random.fork_rng([] if device.type == "cpu" else [device])
    with no_trace, torch.no_grad(), trainer.compute_loss_context_manager():
        judged = trainer.judge(model, batch)
    model.train(was_training)
    difference, gamma, beta = judged.log_ratio_difference.float(), judged.confidence.float(), trainer.beta
    if trainer.state.global_step == 0 and trainer.starts_at_reference:
        _check_reference(trainer, difference, batch["answer_stop"] - batch["answer_start"])
    other = torch.where(gamma > 0.25, gamma / 2, gamma + 0.5)
    loss, slope = _loss_and_slope(trainer, difference + 1, gamma, beta)
    if not bool(loss.isfinite().all() and slope.isfinite().all()):
        raise StageFailed("objective", "its loss is not a finite number", "look at the model's answers to these pairs")
    for what, changed in (
        ("beta", _loss_and_slope(trainer, difference + 1, gamma, 2 * beta)),
        ("the confidence", _loss_and_slope(trainer, difference + 1, other, beta)),
    ):
        if torch.equal(loss, changed[0]) or torch.equal(slope, changed[1]):
            raise StageFailed("objective", f"{what} does not change the loss and its gradient", "report this")
    if trainer.live is not None and trainer.live.refit != "off":
        _check_refit(trainer, batch, judged)


def _check_reference(trainer: "ConfidenceDPOTrainer", difference: Tensor, lengths: Tensor) -> None:
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype != torch.float32
    furthest, allowed = float(difference.abs().max()), SAME_POLICY * (int(lengths.max()) if half else 1)
    if furthest <= allowed:
        return
    what_to_do = "the model was changed after it was loaded: save it and give its folder, or pass ref_model"
    if trainer.precompute_ref_logps:
        what_to_do += f"; or remove {trainer.args.output_dir}/reference_log_probs"
    raise StageFailed(
        "reference model", f"at step 0 its log-ratios to the policy reach {furthest:.2g}, not 0", what_to_do
    )


def _loss_and_slope(
    trainer: "ConfidenceDPOTrainer", difference: Tensor, gamma: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        at = difference.detach().clone().requires_grad_()
        losses = trainer.pair_losses(at, gamma, beta)
        (slope,) = torch.autograd.grad(losses.sum(), at)
    return losses.detach(), slope


def _check_refit(trainer: "ConfidenceDPOTrainer", batch: dict[str, Any], judged: Any) -> None:
    """One step on a copy of the reward must change how sure it is of these pairs."""
    fit, args = ~batch["cut"], trainer.args
    trial = LiveReward(
        copy.deepcopy(trainer.live.reward), args.refit, args.refit_margin, args.refit_learning_rate,
        args.refit_weight_decay,
    )  # fmt: skip
    before, _ = trial.rewards(judged.states)
    trial.add(judged.chosen_states[fit], judged.rejected_states[fit])
    trial.step(lambda sums: sums)
    after, _ = trial.rewards(judged.states)
    gamma, moved = trainer.live_confidence(before, None), trainer.live_confidence(after, None)
    pinned = (gamma < PINNED) | (gamma > 1 - PINNED)
    if args.confidence == "released":
        pinned |= gamma == 0.5  # its floor
    still = torch.equal(before, after) if bool(pinned.all()) else torch.equal(gamma, moved)
    if still and bool(fit.any()):
        raise StageFailed("reward", "one step of its re-fit changes no confidence", "raise refit_learning_rate")
