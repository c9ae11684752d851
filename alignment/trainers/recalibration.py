"""Keeps alpha where gamma is a probability: in training the reward's gaps grow, and an alpha that stayed is too sure.

Every EVERY optimiser steps the policy reads PAIRS held-out pairs, which neither it nor the reward learns from, and the
reward as it now stands says their gaps. So few pairs say little of alpha, but much of how far it has moved, since what
chance put into them is the same each time:

    alpha = alpha at start * best alpha now / best alpha at start

Gaps of training pairs, taken before the reward learns from them, would cost nothing. But a policy's own samples are
labelled by the reward itself, which is always right about them, and on given pairs it was fitted before the training.
"""

from pathlib import Path

import torch
from torch import Tensor

from alignment.maths.confidence import calibration_error, fit_temperature
from alignment.models.hybrid_quality import ordered_right
from alignment.models.hybrid_reward import HybridReward
from alignment.runs.artifacts import read_json, write_json
from alignment.types import StageFailed

EVERY = 20  # optimiser steps: on own samples alpha halved in 25 at the fastest, and a reading costs 26 pairs' training
PAIRS = 128  # with more, each of the readings that a short training has room for would take longer than it is worth
FEWEST = 32  # with fewer, alpha would follow chance
FILE = "recalibration.json"


class Recalibration:
    """factor: alpha over the best one of the held-out pairs, at the first reading; 0 where they say nothing of it."""

    factor: float | None = None

    def read(self, reward: HybridReward, states: Tensor) -> dict[str, float]:
        """Sets the reward's alpha, and gives what there is to log: how well calibrated gamma was until now.

        states: (pair, 2, layer, width) of the held-out pairs, chosen answers first.
        """
        gaps = torch.sub(*map(reward.score, states.unbind(dim=1))).cpu()
        error = calibration_error(torch.sigmoid(reward.alpha * gaps), ordered_right(gaps, 0))
        best = fit_temperature(gaps).alpha
        if self.factor is None:
            self.factor = reward.alpha / best if best > 0 else 0.0
        elif self.factor > 0:
            reward.alpha = self.factor * best
        return {"calibration_error": error}

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {"factor": self.factor})

    def load(self, folder: Path) -> None:
        path = folder / FILE
        if not path.is_file():
            raise StageFailed(str(folder), f"it holds no {FILE}", "resume with the settings it was made with")
        self.factor = read_json(path)["factor"]
