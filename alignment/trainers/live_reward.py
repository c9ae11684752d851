"""A hybrid reward that follows the policy: it scores every batch, and is then re-fitted on it (eq. 7).

The re-fit is a step of AdamW per optimiser step, on the pairs of the whole global batch (all micro-batches, all ranks):
gradients are summed at fixed parameters, in float64, and divided by the number of pairs at the end. So the result does
not depend on how the batch was cut up, and the rewards of all ranks stay the same. Nothing here touches the policy: its
states come detached. Nor does it wait for the device: whether numbers are finite is for others to ask.

The released code has Adam with weight decay 0.01 as part of the gradient. Our weights are divided by the width, so that
this term would be larger than any gradient and pull the reward to zero; decoupled, as in AdamW, it acts as it does
there.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from alignment.maths.hybrid import hybrid_score
from alignment.maths.losses import margin_ranking_loss
from alignment.models.hybrid_reward import HybridReward
from alignment.types import Refit, StageFailed

FILE = "live_reward.safetensors"


class LiveReward:
    """The reward, AdamW's state, and the gradient sums of the step in progress.

    refit: "margin" asks for a gap of `margin` (eq. 7), "no_margin" for none, "off" leaves the reward as it is.
    """

    def __init__(
        self, reward: HybridReward, refit: Refit, margin: float, learning_rate: float, weight_decay: float
    ) -> None:
        self.reward, self.refit = reward, refit
        self.margin = margin if refit == "margin" else 0.0
        self._parameters = list(reward.parameters())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay)
        self._forget()

    @torch.no_grad()
    def rewards(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """R and the gate's weights of each row of (row, layer, width), by the reward as it was when the step began."""
        scores = self.reward.unchecked_scores(states)
        weights = self.reward.gate_weights(scores)
        return hybrid_score(scores, weights), weights

    def add(self, chosen: Tensor, rejected: Tensor) -> None:
        """Adds a micro-batch's pairs to the step."""
        if len(chosen) == 0:
            return
        with torch.enable_grad():
            scores = self.reward.unchecked_scores(torch.cat([chosen, rejected]).double())
            rewards = hybrid_score(scores, self.reward.gate_weights(scores))
            margin = torch.full_like(rewards[: len(chosen)], self.margin)
            loss = margin_ranking_loss(*rewards.chunk(2), margin).sum()
            gradients = torch.autograd.grad(loss, self._parameters)
        self._sums = [total + gradient for total, gradient in zip(self._sums, gradients, strict=True)]
        self._loss, self._pairs = self._loss + loss.detach(), self._pairs + len(chosen)
        self._own_pairs += len(chosen)

    def step(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Ends the optimiser step by AdamW on the mean gradient. Gives the pairs' mean loss; None without pairs.

        A rank with pairs knows that there are some. Only one without has to look whether others have, and waits.
        """
        flat = torch.cat([*(total.flatten() for total in self._sums), self._loss.view(1), self._pairs.view(1)])
        flat = sum_over_ranks(flat)
        pairs, loss = flat[-1], flat[-2]
        nobody = self._own_pairs == 0 and bool(pairs == 0)
        self._forget()
        if nobody:
            return None
        if self.refit != "off":
            sizes = [parameter.numel() for parameter in self._parameters]
            for parameter, total in zip(self._parameters, flat[:-2].split(sizes), strict=True):
                parameter.grad = (total / pairs).view_as(parameter)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        return loss / pairs

    def _forget(self) -> None:
        self._sums = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._loss = self._pairs = torch.zeros((), dtype=torch.float64, device=self._parameters[0].device)
        self._own_pairs = 0

    def save(self, folder: Path) -> None:
        """The reward as HybridReward.load reads it, and AdamW's state beside it."""
        self.reward.save(folder / "reward")
        tensors = {
            f"{number}.{name}": value.contiguous()
            for number, state in self._optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        save_file(tensors, folder / FILE, metadata={"refit": json.dumps([self.refit, self.margin])})

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` stopped."""
        path = folder / FILE
        if not path.is_file():
            raise StageFailed(str(folder), f"it holds no {FILE}", "resume from a checkpoint of ConfidenceDPOTrainer")
        saved = HybridReward.load(folder / "reward")
        if (saved.gate, saved.pooling) != (self.reward.gate, self.reward.pooling):
            problem = f"its reward is {saved.gate} at the {saved.pooling}, "
            problem += f"this one {self.reward.gate} at the {self.reward.pooling}"
            raise StageFailed(str(folder), problem, "resume with the settings it was made with")
        self.reward.load_state_dict(saved.state_dict())
        self.reward.alpha, self.reward.layer = saved.alpha, saved.layer
        state: dict[int, dict[str, Tensor]] = {}
        with safe_open(path, framework="pt") as file:
            refit = file.metadata()["refit"]
            if refit != json.dumps([self.refit, self.margin]):
                raise StageFailed(str(folder), f"its re-fit is {refit}", "resume with the settings it was made with")
            for name in file.keys():  # noqa: SIM118 (a file, not a dict)
                number, _, what = name.partition(".")
                state.setdefault(int(number), {})[what] = file.get_tensor(name)
        self._optimiser.load_state_dict({"state": state, "param_groups": self._optimiser.state_dict()["param_groups"]})
