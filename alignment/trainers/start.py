"""What happens once, before the first step: a reward is fitted if none was given, the objective is said, and checked.

The check takes what training computes of one micro-batch. At step 0 policy and reference agree, so z = 0 and the loss
is log 2 whatever beta and gamma are; the log-ratio difference is therefore shifted by 1. It leaves no trace: losses
with and without it are the same bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from alignment.models.hybrid_reward import HybridReward
from alignment.runs.ranks import Ranks
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.pair_confidence import Confidence, Judged
from alignment.types import StageFailed, UserError

SAME_POLICY = 1e-2  # nats a log-ratio may be off at step 0; in half precision for every token of an answer


def objective(beta: float, confidence: Confidence) -> str:
    """The objective with its numbers, as it will be optimised."""
    return (
        "  minimise the mean over pairs of -γ log σ(z) - (1 - γ) log σ(-z), "
        f"z = {beta:g} (log-ratio of y_c - of y_r)\n  {confidence.describe()}"
    )


# ---- the reward -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def fit_reward(
    pairs: Any, args: ConfidenceDPOConfig, accelerator: Accelerator, states_of: Callable[[list[dict], str], Tensor]
) -> HybridReward:
    """A hybrid reward on the first training pairs that max_length leaves whole, the same one on every rank.

    The pairs are dealt to the ranks in turn. states_of: reads (pair, 2, layer, width) of rows at a pooling, together
    with the other ranks: ZeRO-3 and FSDP gather weights there.
    """
    pooling, limit = args.pooling or "endpoint", args.max_length or float("inf")
    whole = []
    for number, row in enumerate(pairs.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])):
        if len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= limit:
            whole.append(number)
        if len(whole) == args.reward_pairs:
            break
    if len(whole) < 20:
        raise UserError("train_dataset", f"{len(whole)} pairs fit into max_length", "give 20 or more, or a reward")
    ranks, size = Ranks(args.process_index, args.world_size), args.per_device_train_batch_size
    gathered = []
    for first in range(0, len(whole), size * ranks.count):
        own = whole[first + ranks.rank * size :][:size]
        states = states_of([pairs[i] for i in own or whole[:1]], pooling).float()  # without pairs a rank takes part too
        filler = states.new_zeros(size - len(states), *states.shape[1:])
        together = accelerator.gather(torch.cat([states, filler]))
        gathered.append(together[: len(whole) - first].cpu())  # filler is behind the pairs of the last round
    chosen, rejected = torch.cat(gathered).unbind(dim=1)
    gate = {} if args.gate is None else {"gate": args.gate}
    return ranks.from_main(lambda: HybridReward.fit(chosen, rejected, seed=args.seed, pooling=pooling, **gate))


# ---- the check ------------------------------------------------------------------------------------------------------


def check_reference(difference: Tensor, tokens: int, half: bool, kept: str | None) -> None:
    """StageFailed unless log-ratios are 0 at step 0. tokens: of the longest answer; kept: where references come from,
    if they were computed before."""
    furthest, allowed = float(difference.abs().max()), SAME_POLICY * (tokens if half else 1)
    if furthest <= allowed:
        return
    what_to_do = "the model was changed after it was loaded: save it and give its folder, or pass ref_model"
    if kept is not None:
        what_to_do += f"; or remove {kept}"
    raise StageFailed(
        "reference model", f"at step 0 its log-ratios to the policy reach {furthest:.2g}, not 0", what_to_do
    )


def check_objective(judged: Judged, beta: float, pair_losses: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """StageFailed if beta or gamma change nothing. pair_losses: of log-ratio differences, gamma, and beta."""
    difference, gamma = judged.log_ratio_difference.float() + 1, judged.confidence.float()

    def loss_and_slope(gamma: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = difference.detach().clone().requires_grad_()
            losses = pair_losses(at, gamma, beta)
            (slope,) = torch.autograd.grad(losses.sum(), at)
        return losses.detach(), slope

    loss, slope = loss_and_slope(gamma, beta)
    if not bool(loss.isfinite().all() and slope.isfinite().all()):
        raise StageFailed("objective", "its loss is not a finite number", "look at the model's answers to these pairs")
    other = torch.where(gamma > 0.25, gamma / 2, gamma + 0.5)
    for what, changed in (("beta", loss_and_slope(gamma, 2 * beta)), ("the confidence", loss_and_slope(other, beta))):
        if torch.equal(loss, changed[0]) or torch.equal(slope, changed[1]):
            raise StageFailed("objective", f"{what} does not change the loss and its gradient", "report this")
