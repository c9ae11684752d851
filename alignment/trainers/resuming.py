"""A training that goes on where it was, and stops when it is asked to.

All ranks agree at the end of an optimiser step, save as ever, and stop. It is a step that is logged: what is added
up for the next log is in no checkpoint. Not transformers' own just-in-time checkpoints: their flag belongs to one rank,
so that the others wait for it forever when signals come at different moments, and train() returns as if it had
finished.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from alignment.runs import stopping
from alignment.runs.ranks import Ranks
from alignment.trainers.checkpoints import newest_intact
from alignment.types import Stopped


def train(trainer: Trainer, what: str, ranks: Ranks) -> None:
    """To its end, from the newest intact checkpoint; raises Stopped if it was asked to stop before."""
    checkpoint = ranks.from_main(lambda: newest_intact(Path(trainer.args.output_dir), ranks.say))
    stop = _StopWhenAsked(ranks)
    trainer.add_callback(_NothingLeft())
    trainer.add_callback(stop)
    with suppress(_AtEnd):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stop.step is not None and stop.step < trainer.state.max_steps:  # else it is done, and what follows may be, too
        raise Stopped(f"{what}, at step {stop.step} of {trainer.state.max_steps}")


class _StopWhenAsked(TrainerCallback):
    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.step: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.logging_steps == 0 and self._ranks.any(stopping.asked()):
            control.should_save = control.should_training_stop = True
            self.step = state.global_step


class _AtEnd(Exception):
    """The checkpoint that a training was to go on from is its last one."""


class _NothingLeft(TrainerCallback):
    """Trainer would take one step more from there, unless an epoch ends there too."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _AtEnd
