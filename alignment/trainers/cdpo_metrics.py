"""What is logged of the pairs of a step or an evaluation: collected batch by batch, gathered from the ranks once.

How far the policy has moved from the reference is told by the tokens of the pairs' own answers, in nats a token:

    chosen_log_ratio    the mean of log policy - log reference over the chosen answers' tokens: below 0, what the policy
    rejected_log_ratio  is to say has become less likely than it was (displacement), as often in DPO; and the rejected's
    kl                  half the mean of its square over both answers' tokens (Schulman's k2), which is near the KL
                        divergence of two models that are near each other, whichever of them a token comes from. It is
                        not the divergence on the policy's own answers: a training samples none. It isn't there where
                        the reference's log-probabilities were computed before the training: those are of whole answers
"""

import torch
from accelerate import Accelerator
from torch import Tensor

from alignment.maths.confidence import saturated
from alignment.models.hybrid_quality import ordered_right
from alignment.trainers.pair_confidence import Judged

QUANTILES = (0.1, 0.5, 0.9)


class PairRecord:
    """A row for each pair since the last summary: confidence, DPO gap, log-ratios and tokens of both answers, the
    squares of the tokens' log-ratios, hybrid gap, gate weights by layer."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._by_token = True  # is the reference's log-probability of every token known?

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, batch: Judged, beta: float, real_pairs: int | None) -> None:
        """Adds the real pairs of a micro-batch."""
        moved = batch.moved
        columns = [batch.confidence.detach(), beta * batch.log_ratio_difference.detach()]
        self._by_token = moved.squares is not None
        squares = moved.squares if self._by_token else torch.zeros_like(batch.confidence)
        columns += [*moved.log_ratios.chunk(2), *moved.tokens.chunk(2), squares]
        if batch.rewards is not None:
            chosen, rejected = batch.rewards.chunk(2)
            columns.append(chosen - rejected)
        rows = torch.stack([column.double() for column in columns], dim=1)  # a copy
        if batch.gate_weights is not None:
            chosen, rejected = batch.gate_weights.chunk(2)
            rows = torch.cat([rows, (chosen + rejected) / 2], dim=1)
        if real_pairs is not None:  # filler stays, as no number: ranks gather equally many rows
            rows[real_pairs:] = torch.nan
        self._rows.append(rows)

    def summary(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """The figures of the pairs of all ranks since the last summary, still being computed on the device."""
        rows = accelerator.gather(torch.cat(self._rows))
        self._rows = []
        (confidence, dpo_gap, *moved), reward = rows[:, :7].unbind(dim=1), rows[:, 7:]
        chosen, rejected, chosen_tokens, rejected_tokens, squares = (column.nansum() for column in moved)
        real = ~confidence.isnan()
        metrics = {
            "confidence": confidence.nanmean(),
            **{f"confidence_q{100 * level:02.0f}": confidence.nanquantile(level) for level in QUANTILES},
            "saturated_share": saturated(confidence).sum() / real.sum().double(),
            "dpo_gap": dpo_gap.nanmean(),
            "dpo_accuracy": _accuracy(dpo_gap, real),
            "chosen_log_ratio": chosen / chosen_tokens,
            "rejected_log_ratio": rejected / rejected_tokens,
        }
        if self._by_token:
            metrics["kl"] = squares / 2 / (chosen_tokens + rejected_tokens)
        if reward.shape[1]:
            gap = reward[:, 0]
            metrics |= {"hybrid_gap": gap.nanmean(), "hybrid_accuracy": _accuracy(gap, real)}
            weights = reward[:, 1:].nanmean(dim=0)
            metrics |= {f"gate_weight_{layer}": weight for layer, weight in enumerate(weights, start=1)}
        return metrics


def _accuracy(gap: Tensor, real: Tensor) -> Tensor:
    return ordered_right(gap, 0).where(real, torch.nan).nanmean()


def fetch(metrics: dict[str, list[float | Tensor]]) -> None:
    """Puts numbers in the places of float64 tensors, in one copy from the device for all of them."""
    waiting = [(values, i) for values in metrics.values() for i, value in enumerate(values) if torch.is_tensor(value)]
    if waiting:
        numbers = torch.stack([values[i] for values, i in waiting]).tolist()
        for (values, i), number in zip(waiting, numbers, strict=True):
            values[i] = number
