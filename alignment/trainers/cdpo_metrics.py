"""What is logged of the pairs of a step, or an evaluation: collected by batch, gathered once, over real pairs."""

import torch
from accelerate import Accelerator
from torch import Tensor

from alignment.maths.confidence import saturated_share
from alignment.trainers.pair_confidence import Judged

QUANTILES = (0.05, 0.5, 0.95)


class PairRecord:
    """Rows of (confidence, DPO gap, hybrid gap, gate weights by layer) of the pairs seen since the last summary."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, batch: Judged, beta: float, real_pairs: int | None) -> None:
        """One micro-batch; only its real pairs count."""
        columns = [batch.confidence.detach(), beta * batch.log_ratio_difference.detach()]
        if batch.rewards is not None:
            chosen, rejected = batch.rewards.chunk(2)
            columns.append(chosen - rejected)
        rows = torch.stack([column.double() for column in columns], dim=1)
        if batch.gate_weights is not None:
            chosen, rejected = batch.gate_weights.chunk(2)
            rows = torch.cat([rows, (chosen + rejected) / 2], dim=1)
        self._rows.append(rows[:real_pairs])

    def summary(self, accelerator: Accelerator) -> dict[str, float]:
        """Of the real pairs on all ranks since the last one: of a step, or an evaluation."""
        rows = torch.cat(self._rows)
        self._rows = []
        padded = accelerator.pad_across_processes(rows, dim=0, pad_index=torch.nan)
        gathered = accelerator.gather(padded)
        return _summary(gathered[~gathered[:, 0].isnan()])


def _summary(rows: Tensor) -> dict[str, float]:
    confidence, dpo_gap = rows[:, 0], rows[:, 1]
    metrics = {
        "confidence": confidence.mean(),
        **{f"confidence_q{100 * level:02.0f}": confidence.quantile(level) for level in QUANTILES},
        "saturated_share": saturated_share(confidence),
        "dpo_gap": dpo_gap.mean(),
        "dpo_accuracy": _ordered_right(dpo_gap),
    }
    if rows.shape[1] > 2:
        metrics |= {"hybrid_gap": rows[:, 2].mean(), "hybrid_accuracy": _ordered_right(rows[:, 2])}
        weights = rows[:, 3:].mean(dim=0)
        metrics |= {f"gate_weight_{layer}": weight for layer, weight in enumerate(weights, start=1)}
    return {name: float(value) for name, value in metrics.items()}


def _ordered_right(gap: Tensor) -> Tensor:
    """Share of pairs whose chosen answer is ahead; a tie is half a hit."""
    return ((gap.sign() + 1) / 2).mean()
