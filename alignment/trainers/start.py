"""What confidence DPO does once, before the first step: it fits a reward if none was given, and checks the objective.

The check takes what training computes of one micro-batch. At step 0 policy and reference agree, so z = 0 and the loss
is log 2 whatever beta and gamma are: the check therefore adds 1 to the log-ratio differences. It leaves no trace: the
losses of a training are the same bits with it and without it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from alignment.data.prompt_folds import same_prompts
from alignment.maths.cross_fitting import FOLDS
from alignment.models.hybrid_reward import HybridReward
from alignment.runs.ranks import Ranks
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.dealt_states import dealt_states
from alignment.trainers.objectives import Objective
from alignment.trainers.pair_confidence import Judged
from alignment.types import Message, StageFailed, UserError

SAME_POLICY = 1e-2  # nats that a log-ratio may be off 0 at step 0; in half precision, for every token of an answer


@torch.no_grad()
def fit_reward(
    pairs: Any, args: ConfidenceDPOConfig, accelerator: Accelerator, states_of: Callable[..., Tensor]
) -> HybridReward:
    """A hybrid reward on the first training pairs that max_length leaves whole; all ranks get the same reward.

    What it chooses on pairs that its parts weren't fitted on is chosen on other prompts' pairs, as in every fit.
    states_of: (pair, 2, layer, width) of rows, at a `pooling`.
    """
    pooling, limit = args.pooling or "endpoint", args.max_length or float("inf")
    fitting = (
        number
        for number, row in enumerate(pairs.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]))
        if len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= limit
    )
    whole = list(islice(fitting, args.reward_pairs))
    if len(whole) < 20:
        raise UserError("train_dataset", f"{len(whole)} pairs fit into max_length", "give 20 or more, or a reward")
    prompts = _prompt_numbers(pairs.select(whole))
    if (count := len(np.unique(prompts))) < FOLDS:
        problem = f"the {len(whole)} pairs that a reward would be fitted on have {count} prompts"
        raise UserError("train_dataset", problem, f"give pairs of {FOLDS} prompts or more, or a reward")
    size, of_rows = args.per_device_train_batch_size, partial(states_of, pooling=pooling)
    chosen, rejected = dealt_states(pairs, whole, size, accelerator, of_rows).unbind(dim=1)
    gate = {} if args.gate is None else {"gate": args.gate}
    return Ranks(args.process_index, args.world_size).from_main(
        lambda: HybridReward.fit(chosen, rejected, seed=args.seed, pooling=pooling, prompts=prompts, **gate)
    )


def _prompt_numbers(pairs: Any) -> np.ndarray:
    """A number for each pair's prompt. TRL leaves the column `prompt` beside the token ids that it makes; of rows that
    came as token ids there is no text, and prompts of the same ids are the same."""
    if "prompt" not in pairs.column_names:
        numbers: dict[tuple[int, ...], int] = {}
        return np.array([numbers.setdefault(tuple(ids), len(numbers)) for ids in pairs["prompt_ids"]])
    return same_prompts([_messages(prompt) for prompt in pairs["prompt"]])


def _messages(prompt: str | list[dict]) -> list[Message]:
    """A prompt of text, or of messages, whose content may be in parts."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": _text(turn["content"])} for turn in prompt]


def _text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "\n".join(part.get("text") or "" for part in content)


def check_reference(difference: Tensor, tokens: int, half: bool, folder: str | None) -> None:
    """StageFailed unless log-ratios are 0 at step 0.

    tokens: of the longest answer. folder: where the reference's log-probabilities lie that were computed before.
    """
    furthest, allowed = float(difference.abs().max()), SAME_POLICY * (tokens if half else 1)
    if furthest <= allowed:
        return
    remedy = (
        "the model was changed after it was loaded, or is not the newest revision on the hub: save it and "
        "give its folder, or pass revision or ref_model"
    )
    if folder is not None:
        remedy += f"; or remove {folder}"
    raise StageFailed("reference model", f"at step 0 its log-ratios to the policy reach {furthest:.2g}, not 0", remedy)


def check_objective(judged: Judged, beta: float, objective: Objective) -> None:
    """StageFailed if beta or gamma change nothing."""
    difference, gamma = judged.log_ratio_difference.float() + 1, judged.confidence.float()

    def loss_and_slope(gamma: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = difference.detach().clone().requires_grad_()
            changed = replace(judged, log_ratio_difference=at, confidence=gamma)
            losses = objective.losses(changed, beta, None, learning=False)
            (slope,) = torch.autograd.grad(losses.sum(), at)
        return losses.detach(), slope

    loss, slope = loss_and_slope(gamma, beta)
    if not bool(loss.isfinite().all() and slope.isfinite().all()):
        raise StageFailed("objective", "its loss is not a finite number", "look at the model's answers to these pairs")
    other_gamma = torch.where(gamma > 0.25, gamma / 2, gamma + 0.5)
    changes = [("beta", (gamma, 2 * beta))]
    if objective.reads_confidence:
        changes.append(("the confidence", (other_gamma, beta)))
    for name, changed in changes:
        changed_loss, changed_slope = loss_and_slope(*changed)
        if torch.equal(loss, changed_loss) or torch.equal(slope, changed_slope):
            raise StageFailed("objective", f"{name} does not change the loss and its gradient", "report this")
