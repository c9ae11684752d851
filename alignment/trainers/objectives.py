"""What is minimised over pairs: confidence DPO's loss, or one of those that others hold against wrong labels.

    confidence   -gamma log sigma(z) - (1 - gamma) log sigma(-z); gamma = 1 is DPO
    robust       DPO's loss, right on average where the share e of the labels is turned round (arXiv 2403.00409)
    ipo          (d - 1 / (2 beta))^2, the log-ratios divided by their answers' tokens (arXiv 2310.12036)
    dr_dpo       DPO's, hard pairs weighted down as in the worst case near to the data (Dr. DPO, arXiv 2407.07880)
    beta_dpo     DPO's, beta following the gap of a batch, the strangest pairs left out (beta-DPO, arXiv 2407.08639)
    flip_aware   how likely a label is, if it may be turned round; how probable that is, is learned (FA-DPO, 2512.00709)

z is beta d, and d the difference of a pair's log-ratios. dr_dpo and beta_dpo look at a micro-batch of a rank, as their
authors' code does: what they come to depends on its size. The trainer gives micro-batches to one of these.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alignment.maths.losses import (
    batch_beta,
    confidence_dpo_loss,
    flip_aware_loss,
    identity_loss,
    robust_loss,
    worst_case_weights,
)
from alignment.maths.noise import row_key
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.pair_confidence import Judged
from alignment.types import StageFailed

DR_TEMPERATURE = 1.0  # Dr. DPO's beta', its authors' default
BETA_STRENGTH, BETA_KEEPS, BETA_SHARE = 0.6, 0.9, 0.8  # beta-DPO's alpha, m and rho, its authors'
FLIP_RATE, FIRST_FLIPS = 0.05, 0.1  # ours: AdamW's, and what is believed of every pair at first
FLIP_FEATURES = ("length", "surprise", "gap")
SumOverRanks = Callable[[Tensor], Tensor]


class Objective:
    """The losses of pairs, of which the trainer takes the mean; most have no state."""

    per_token = False  # is a log-ratio divided by its answer's tokens?
    reads_confidence = False

    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        """real: how many pairs come before filler; None: there is no filler. learning: may what it has learned move?"""
        raise NotImplementedError

    def describe(self, beta: float) -> str:
        """The formula, with its numbers."""
        raise NotImplementedError

    def step(self) -> dict[str, float | Tensor]:
        """Ends an optimiser step, and gives what there is to log of it; a tensor is still being computed."""
        return {}

    def save(self, folder: Path) -> None:
        """Writes its state into a checkpoint, on the main process."""

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` stopped."""


class ByConfidence(Objective):
    reads_confidence = True

    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        return confidence_dpo_loss(beta * judged.log_ratio_difference, judged.confidence)

    def describe(self, beta: float) -> str:
        return f"-γ log σ(z) - (1 - γ) log σ(-z), z = {beta:g} (log-ratio of y_c - of y_r)"


class Robust(Objective):
    def __init__(self, flipped: float) -> None:
        self._flipped = flipped

    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        return robust_loss(beta * judged.log_ratio_difference, self._flipped)

    def describe(self, beta: float) -> str:
        e = self._flipped
        return f"[-{1 - e:g} log σ(z) + {e:g} log σ(-z)] / {1 - 2 * e:g}, z = {beta:g} (log-ratio of y_c - of y_r)"


class Identity(Objective):
    per_token = True

    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        return identity_loss(judged.log_ratio_difference, beta)

    def describe(self, beta: float) -> str:
        return f"(d - {1 / (2 * beta):g})², d = log-ratio a token of y_c - of y_r"


class WorstCase(Objective):
    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        z = beta * judged.log_ratio_difference
        losses = robust_loss(z, 0.0)
        return torch.cat(
            [worst_case_weights(losses[:real].detach(), DR_TEMPERATURE) * losses[:real], losses[len(losses[:real]) :]]
        )

    def describe(self, beta: float) -> str:
        return f"-log σ(z) weighted by exp(log σ(z) / {DR_TEMPERATURE:g}), z = {beta:g} (log-ratio of y_c - of y_r)"


class MovingBeta(Objective):
    """usual, spread: mean and standard deviation of beta d, as they moved until now; the first batch is usual."""

    def __init__(self, seed: int, rank: int, sum_over_ranks: SumOverRanks) -> None:
        self._seed, self._rank, self._sum_over_ranks = seed, rank, sum_over_ranks
        self._usual = self._spread = 0.0
        self._batches = 0
        self._betas: list[float] = []

    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        difference = judged.log_ratio_difference
        if not learning:
            return robust_loss(beta * difference, 0.0)
        gaps = (beta * difference.detach()[:real]).double()
        mean, spread = self._of_ranks(gaps, torch.ones_like(gaps))
        if not self._batches:
            self._usual, self._spread = mean, spread
        kept = self._kept(gaps)
        mean, spread = self._of_ranks(gaps, kept)
        beta = batch_beta(beta, mean, self._usual, BETA_STRENGTH)
        self._usual = BETA_KEEPS * self._usual + (1 - BETA_KEEPS) * mean
        self._spread = BETA_KEEPS * self._spread + (1 - BETA_KEEPS) * spread
        self._batches += 1
        self._betas.append(beta)
        weights = torch.zeros_like(difference)
        weights[:real] = kept.to(weights) * (len(kept) / max(float(kept.sum()), 1.0))
        return weights * robust_loss(beta * difference, 0.0)

    def _of_ranks(self, gaps: Tensor, weights: Tensor) -> tuple[float, float]:
        """Mean and standard deviation over the micro-batches of all ranks."""
        sums = torch.stack([(weights * gaps**power).sum() for power in range(3)])
        count, total, squares = self._sum_over_ranks(sums).tolist()
        mean = total / max(count, 1.0)
        return mean, max(squares / max(count, 1.0) - mean**2, 0.0) ** 0.5

    def _kept(self, gaps: Tensor) -> Tensor:
        """1 for the share of the pairs that are learned from: drawn, likelier the more usual their gap is."""
        if not len(gaps):
            return torch.zeros_like(gaps)
        likely = torch.exp(-(((gaps - self._usual) / max(self._spread, 1e-6)) ** 2) / 2).clamp_min(1e-9)
        random = torch.Generator().manual_seed(row_key(self._seed, f"beta_dpo {self._rank}", self._batches))
        drawn = torch.multinomial(likely.cpu(), max(1, round(BETA_SHARE * len(gaps))), generator=random)
        return torch.zeros_like(gaps).index_fill_(0, drawn.to(gaps.device), 1.0)

    def describe(self, beta: float) -> str:
        return (
            f"-log σ(β d) of {BETA_SHARE:.0%} of a micro-batch, β = [1 + {BETA_STRENGTH:g} (M - M_0)] {beta:g}, "
            "M: its mean gap, M_0: the usual one"
        )

    def step(self) -> dict[str, float]:
        betas, self._betas = self._betas, []
        return {"beta": sum(betas) / len(betas)} if betas else {}

    def save(self, folder: Path) -> None:
        _write(folder / "moving_beta.json", {"usual": self._usual, "spread": self._spread, "batches": self._batches})

    def load(self, folder: Path) -> None:
        state = _read(folder / "moving_beta.json")
        self._usual, self._spread, self._batches = state["usual"], state["spread"], state["batches"]


class FlipAware(Objective):
    """How probable it is that a label is turned round: half a logistic function (so that it is below one half, where
    turning all labels round would explain as much) of three features, fitted by a step of AdamW on the losses of every
    optimiser step. Ours are, of what the paper names: the difference in length, that in surprise (log reference a
    token), and z.
    """

    def __init__(self, device: torch.device, sum_over_ranks: SumOverRanks) -> None:
        first = torch.zeros(1 + len(FLIP_FEATURES), dtype=torch.float64, device=device)
        first[0] = torch.logit(torch.tensor(2 * FIRST_FLIPS, dtype=torch.float64))
        self._weights = first.requires_grad_()
        self._optimiser = torch.optim.AdamW([self._weights], lr=FLIP_RATE, weight_decay=0.01)
        self._sum_over_ranks = sum_over_ranks
        self._forget()

    def flips(self, judged: Judged, beta: float) -> Tensor:
        """The probability of each pair, with the features as they stand."""
        lengths, reference = (part.double().chunk(2) for part in (judged.moved.tokens, judged.moved.reference))
        (chosen, rejected), (of_chosen, of_rejected) = lengths, reference
        features = torch.stack(
            [
                torch.ones_like(chosen),
                (chosen - rejected) / (chosen + rejected),
                of_chosen / chosen - of_rejected / rejected,
                beta * judged.log_ratio_difference.detach().double(),
            ],
            dim=1,
        )
        return torch.sigmoid(features @ self._weights) / 2

    def losses(self, judged: Judged, beta: float, real: int | None, learning: bool) -> Tensor:
        z = beta * judged.log_ratio_difference
        with torch.enable_grad():
            flips = self.flips(judged, beta)
            if learning:
                fit = flip_aware_loss(z.detach().double(), flips)[:real].sum()
                self._gradient = self._gradient + torch.autograd.grad(fit, self._weights)[0]
                sums = torch.stack([flips.detach()[:real].sum(), torch.ones_like(flips)[:real].sum()])
                self._sums = self._sums + sums
                self._own_pairs += len(flips[:real])
        return flip_aware_loss(z, flips.detach().to(z.dtype))

    def describe(self, beta: float) -> str:
        return (
            f"-log[(1 - ε) σ(z) + ε σ(-z)], z = {beta:g} (log-ratio of y_c - of y_r), ε of a pair's lengths, "
            "surprise and z, fitted after each step"
        )

    def step(self) -> dict[str, float | Tensor]:
        """Only a rank without pairs has to look whether others have some, and waits for the device."""
        *gradient, flips, pairs = self._sum_over_ranks(torch.cat([self._gradient, self._sums]))
        nobody = self._own_pairs == 0 and not pairs
        self._forget()
        if nobody:
            return {}
        self._weights.grad = torch.stack(gradient) / pairs
        self._optimiser.step()
        return {"believed_flips": flips / pairs}

    def _forget(self) -> None:
        self._gradient = torch.zeros_like(self._weights)
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._weights.device)
        self._own_pairs = 0

    def save(self, folder: Path) -> None:
        state = {"weights": self._weights.tolist()}
        state |= {name: value.tolist() for name, value in self._optimiser.state_dict()["state"].get(0, {}).items()}
        _write(folder / "flip_aware.json", state)

    def load(self, folder: Path) -> None:
        state = _read(folder / "flip_aware.json")
        with torch.no_grad():
            self._weights.copy_(torch.tensor(state.pop("weights"), dtype=torch.float64))
        moments = {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()}
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})


def _write(path: Path, state: dict) -> None:
    path.write_text(json.dumps(state))


def _read(path: Path) -> dict:
    if not path.is_file():
        raise StageFailed(str(path.parent), f"it holds no {path.name}", "resume with the objective it was made with")
    return json.loads(path.read_text())


def objective_of(args: ConfidenceDPOConfig, rank: int, device: torch.device, sum_over_ranks: SumOverRanks) -> Objective:
    """What the settings ask for."""
    if args.objective == "robust":
        return Robust(args.flipped)
    if args.objective == "beta_dpo":
        return MovingBeta(args.seed, rank, sum_over_ranks)
    if args.objective == "flip_aware":
        return FlipAware(device, sum_over_ranks)
    return {"confidence": ByConfidence, "ipo": Identity, "dr_dpo": WorstCase}[args.objective]()
