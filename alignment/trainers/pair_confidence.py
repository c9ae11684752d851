"""How sure the label of a pair is: gamma (γ), a number in [0, 1] for each pair, which the loss takes as a constant.

    fixed    the same number for every pair
    column   the data set's own column `confidence`
    live     from a hybrid reward on the policy's activations, which is re-fitted as the policy moves (live_reward.py)

The trainer gives micro-batches of pairs to one of these kinds. Only the live one learns from them and has a state.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignment.maths.confidence import paper_confidence, released_confidence, released_means
from alignment.models.activations import Reader
from alignment.models.devices import to_device
from alignment.models.hybrid_reward import HybridReward
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.live_reward import LiveReward
from alignment.trainers.moved import Moved
from alignment.trainers.recalibration import EVERY, Recalibration
from alignment.types import Diverged, StageFailed, UserError

PINNED = 1e-6  # a confidence this near to 0 or 1 can't be seen to move


@dataclass(frozen=True)
class Judged:
    """A batch of pairs: the policy's log-ratio differences and the confidence in the labels.

    states, rewards, gate_weights: those that a live confidence comes from, chosen answers first, then rejected ones.
    moved: how far the policy is from the reference; nothing is judged by it.
    """

    log_ratio_difference: Tensor
    confidence: Tensor
    states: Tensor | None = None
    rewards: Tensor | None = None
    gate_weights: Tensor | None = None
    moved: Moved | None = None


class Confidence:
    """What all kinds can do; a kind without a state leaves most of it as it is here."""

    live: LiveReward | None = None
    pooling: str | None = None  # where in an answer states are read; None: nowhere
    needs_reward = False

    def judge(self, difference: Tensor, batch: Mapping[str, Tensor], reader: Reader | None, real: int | None) -> Judged:
        """difference: of each pair's log-ratios. real: how many pairs come before filler; None: there is no filler."""
        raise NotImplementedError

    def describe(self) -> str:
        """gamma as a formula, with its numbers."""
        raise NotImplementedError

    def learn(self, judged: Judged, taught: Sequence[bool]) -> None:
        """Adds pairs of a micro-batch to the step. taught: for each of the first pairs, whether it is learned from."""

    def step(self) -> dict[str, float | Tensor]:
        """Ends an optimiser step, and gives what there is to log of it; a tensor is still being computed."""
        return {}

    def require_finite(self) -> None:
        """Diverged if states or scores that were judged since the last time aren't finite: the host waits for them."""

    def check(self, judged: Judged, taught: Sequence[bool]) -> None:
        """StageFailed if learning from these pairs would change nothing."""

    def keep_calibrated(self, pairs: int) -> None:
        """From now on `recalibrate` is given the states of so many held-out pairs from time to time."""

    def recalibrate(self, states: Tensor) -> dict[str, float]:
        """Takes in what held-out pairs say, (pair, 2, layer, width), and gives what there is to log of it."""
        return {}

    def save(self, folder: Path) -> None:
        """Writes its state into a checkpoint, on the main process."""

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` stopped."""


class FixedConfidence(Confidence):
    """One number for every pair; 1 is DPO."""

    def __init__(self, value: float) -> None:
        self._value = value

    def judge(self, difference: Tensor, batch: Mapping[str, Tensor], reader: Reader | None, real: int | None) -> Judged:
        return Judged(difference, torch.full_like(difference, self._value))

    def describe(self) -> str:
        return f"γ = {self._value} for every pair" + (" (DPO)" if self._value == 1 else "")


class ColumnConfidence(Confidence):
    """The number that the data set has for each pair."""

    def judge(self, difference: Tensor, batch: Mapping[str, Tensor], reader: Reader | None, real: int | None) -> Judged:
        return Judged(difference, batch["confidence"].to(difference.dtype))

    def describe(self) -> str:
        return "γ = the column `confidence`, per pair"


class LiveConfidence(Confidence):
    """From the rewards of a pair's two answers, on states read in the forward pass that gives the log-probabilities.

    There is no reward until `take` is given one. policy: the configuration of the model whose states are read.
    """

    _recalibration: Recalibration | None = None
    _calibration_pairs = 0

    def __init__(
        self, args: ConfidenceDPOConfig, policy: Any, device: torch.device, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> None:
        self._args, self._device, self._sum_over_ranks = args, device, sum_over_ranks
        self._layers, self._width = policy.num_hidden_layers, policy.hidden_size
        self._not_finite: list[Tensor] = []  # of each micro-batch: states, and scores

    @property
    def needs_reward(self) -> bool:
        return self.live is None

    @property
    def pooling(self) -> str:
        return self.live.reward.pooling

    def take(self, reward: HybridReward) -> None:
        """Makes a reward the live one, on this rank's device."""
        layers, width = reward.weight.shape
        if (layers, width) != (self._layers, self._width):
            problem = f"it reads {layers} layers of {width}, and the policy has {self._layers} of {self._width}"
            raise UserError("reward", problem, "fit it on this policy, or leave it out")
        calibrated = self._args.confidence == "calibrated"
        if calibrated and reward.alpha is None:
            raise UserError("reward", "it was never calibrated", "fit it with HybridReward.fit")
        if calibrated and reward.alpha == 0:
            problem = "it orders held-out pairs no better than chance: every confidence would be 1/2, "
            remedy = "give more pairs, or ones whose labels can be seen in the activations"
            raise UserError("reward", f"{problem}and nothing learned", remedy)
        self.live = self._new_live(reward.to(self._device))

    def _new_live(self, reward: HybridReward) -> LiveReward:
        args = self._args
        return LiveReward(reward, args.refit, args.refit_margin, args.refit_learning_rate, args.refit_weight_decay)

    # ---- gamma -------------------------------------------------------------------------------------------------------

    def judge(self, difference: Tensor, batch: Mapping[str, Tensor], reader: Reader, real: int | None) -> Judged:
        states = reader.states
        rewards, gate_weights = self.live.rewards(states)
        self._not_finite.append(torch.stack([~states.isfinite().all(), ~rewards.isfinite().all()]))
        return Judged(difference, self.gamma(rewards, real).to(difference.dtype), states, rewards, gate_weights)

    def require_finite(self) -> None:
        if not self._not_finite:
            return
        found = self._sum_over_ranks(torch.stack(self._not_finite).double())  # of any rank: others would wait for it
        self._not_finite = []
        for states, scores in found.tolist():  # the first that isn't is the cause of those after it
            if states:
                raise Diverged("policy", "its activations are no longer finite numbers", "lower the learning rate")
            if scores:
                problem = "its scores are no longer finite numbers"
                raise Diverged("reward", problem, "lower the learning rate, or refit_learning_rate")

    def gamma(self, rewards: Tensor, real: int | None = None) -> Tensor:
        """gamma of each pair, of its rewards: those of the chosen answers, then those of the rejected ones."""
        chosen, rejected = rewards.chunk(2)
        if self._args.confidence == "released":
            sums = self._sum_over_ranks(released_means(chosen[:real], rejected[:real]))
            return released_confidence(sums, self._args.alpha).expand_as(chosen)
        alpha = self.live.reward.alpha if self._args.confidence == "calibrated" else self._args.alpha
        return paper_confidence(chosen, rejected, alpha)

    def describe(self) -> str:
        args, reward = self._args, self.live.reward
        if args.confidence == "calibrated":
            gamma = f"γ = σ({reward.alpha:.3g} (R_c - R_r)) per pair, calibrated"
            if self._recalibration is not None:
                gamma += f", α fitted anew every {EVERY} steps on {self._calibration_pairs} held-out pairs"
        elif args.confidence == "paper":
            gamma = f"γ = σ({args.alpha:g} (R_c - R_r)) per pair"
        else:
            gamma = f"γ = max(σ({args.alpha:g} (mean σ(R_c) - mean σ(R_r))), 1/2) per micro-batch of all ranks: "
            gamma += "results depend on its size"
        refit = "not re-fitted"
        if args.refit != "off":
            gap = "R_c - R_r" + (f" - {args.refit_margin:g}" if args.refit == "margin" else "")
            refit = f"re-fitted each step on -log σ({gap}) by AdamW, rate {args.refit_learning_rate:g}, "
            refit += f"weight decay {args.refit_weight_decay:g}"
        return f"{gamma}; R: {reward.gate} over {reward.weight.shape[0]} layers at the {reward.pooling}, {refit}"

    # ---- the re-fit --------------------------------------------------------------------------------------------------

    def learn(self, judged: Judged, taught: Sequence[bool]) -> None:
        chosen, rejected = (states[: len(taught)] for states in judged.states.chunk(2))
        if not all(taught):
            numbers = torch.tensor([number for number, learned in enumerate(taught) if learned], dtype=torch.long)
            chosen, rejected = (states[to_device(numbers, states.device)] for states in (chosen, rejected))
        self.live.add(chosen, rejected)

    def step(self) -> dict[str, float | Tensor]:
        loss = self.live.step(self._sum_over_ranks)
        alpha = {"alpha": self.live.reward.alpha} if self._args.confidence == "calibrated" else {}
        return alpha if loss is None else {"head_loss": loss, **alpha}

    def keep_calibrated(self, pairs: int) -> None:
        self._recalibration, self._calibration_pairs = Recalibration(), pairs

    def recalibrate(self, states: Tensor) -> dict[str, float]:
        return self._recalibration.read(self.live.reward, states.to(self._device))

    def check(self, judged: Judged, taught: Sequence[bool]) -> None:
        """One step on a copy of the reward must change the confidence in these pairs."""
        if self._args.refit == "off":
            return
        trial = copy.copy(self)
        trial.live = self._new_live(copy.deepcopy(self.live.reward))
        trial.learn(judged, taught)
        trial.live.step(lambda sums: sums)
        before, (after, _) = judged.rewards, trial.live.rewards(judged.states)
        gamma, moved = self.gamma(before), self.gamma(after)
        pinned = (gamma < PINNED) | (gamma > 1 - PINNED)
        if self._args.confidence == "released":
            pinned |= gamma == 0.5  # its floor
        still = torch.equal(before, after) if bool(pinned.all()) else torch.equal(gamma, moved)
        if still and any(taught):
            raise StageFailed("reward", "one step of its re-fit changes no confidence", "raise refit_learning_rate")

    def save(self, folder: Path) -> None:
        self.live.save(folder)
        if self._recalibration is not None:
            self._recalibration.save(folder)

    def load(self, folder: Path) -> None:
        if self.live is None:
            self.take(HybridReward.load(folder / "reward"))
        self.live.load(folder)
        if self._recalibration is not None:
            self._recalibration.load(folder)


def confidence_of(
    args: ConfidenceDPOConfig, policy: Any, device: torch.device, sum_over_ranks: Callable[[Tensor], Tensor]
) -> Confidence:
    """The kind of confidence that the settings ask for."""
    if args.confidence == "fixed":
        return FixedConfidence(args.fixed_confidence)
    if args.confidence == "column":
        return ColumnConfidence()
    return LiveConfidence(args, policy, device, sum_over_ranks)
