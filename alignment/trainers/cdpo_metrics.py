"""What is logged of the pairs of a step or an evaluation: collected batch by batch, gathered from the ranks once."""

import torch
from accelerate import Accelerator
from torch import Tensor

from alignment.maths.confidence import saturated_share
from alignment.models.hybrid_quality import ordered_right
from alignment.trainers.pair_confidence import Judged

QUANTILES = (0.05, 0.5, 0.95)


class PairRecord:
    """A row for each pair since the last summary: confidence, DPO gap, hybrid gap, gate weights by layer."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, batch: Judged, beta: float, real_pairs: int | None) -> None:
        """Adds the real pairs of a micro-batch."""
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
        """The figures of the pairs of all ranks since the last summary."""
        rows = torch.cat(self._rows)
        self._rows = []
        padded = accelerator.pad_across_processes(rows, dim=0, pad_index=torch.nan)
        gathered = accelerator.gather(padded)
        rows = gathered[~gathered[:, 0].isnan()]
        confidence, dpo_gap = rows[:, 0], rows[:, 1]
        metrics = {
            "confidence": confidence.mean(),
            **{f"confidence_q{100 * level:02.0f}": confidence.quantile(level) for level in QUANTILES},
            "saturated_share": saturated_share(confidence),
            "dpo_gap": dpo_gap.mean(),
            "dpo_accuracy": ordered_right(dpo_gap, 0).mean(),
        }
        if rows.shape[1] > 2:
            metrics |= {"hybrid_gap": rows[:, 2].mean(), "hybrid_accuracy": ordered_right(rows[:, 2], 0).mean()}
            weights = rows[:, 3:].mean(dim=0)
            metrics |= {f"gate_weight_{layer}": weight for layer, weight in enumerate(weights, start=1)}
        return {name: float(value) for name, value in metrics.items()}
