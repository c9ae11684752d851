"""A trainer whose live confidence is held against pairs that nothing learns from (recalibration.py)."""

from functools import partial
from math import inf
from typing import Any

from transformers import TrainerCallback

from alignment.trainers.dealt_states import dealt_states
from alignment.trainers.pair_rows import pair_of
from alignment.trainers.recalibration import EVERY, FEWEST, PAIRS
from alignment.types import UserError

NAME = "calibration_dataset"


class KeptCalibrated:
    """Mixin for a TRL trainer that has a `confidence` and `states_of(rows, pooling)`."""

    def keep_calibrated(self, pairs: Any) -> None:
        """Chooses the held-out pairs that are read: the first ones that fit, whole, into the rows of the training."""
        window = self.layout.window if self.layout.packed else None  # of models that look back so many tokens
        limit = min(self.args.max_length or inf, window or inf)
        tokens = self._prepare_dataset(pairs, self.processing_class, self.args, NAME)
        whole = [number for number, row in enumerate(tokens) if pair_of(row).longest <= limit]
        if len(whole) < FEWEST:
            raise UserError(NAME, f"{len(whole)} of its pairs fit into max_length", f"give {FEWEST} or more, or none")
        self._calibration = tokens.select(whole[:PAIRS])
        self.confidence.keep_calibrated(len(self._calibration))
        self.add_callback(_AtSteps(self))

    def recalibrate(self) -> None:
        """Fits alpha anew to the held-out pairs, as policy and reward now stand."""
        numbers, size = range(len(self._calibration)), self.args.per_device_train_batch_size
        states_of = partial(self.states_of, pooling=self.confidence.pooling)
        states = dealt_states(self._calibration, numbers, size, self.accelerator, states_of)
        for name, value in self.confidence.recalibrate(states).items():
            self._metrics["train"][name].append(value)


class _AtSteps(TrainerCallback):
    """Calls the trainer's `recalibrate` before the first optimiser step, and before every EVERY-th one after it."""

    def __init__(self, trainer: KeptCalibrated) -> None:
        self._trainer = trainer
        self._last: int | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % EVERY == 0 and state.global_step != self._last:  # once, whatever a step is cut into
            self._last = state.global_step
            self._trainer.recalibrate()
