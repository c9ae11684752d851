"""A training that stops when it is asked to, and goes on from its newest intact checkpoint.

A checkpoint is sealed by a manifest, the last file written; it is intact if every file still matches the manifest.

To stop, all ranks agree at the end of an optimiser step, and write a checkpoint. It is a step that is logged, since no
checkpoint holds what is added up for the next log. transformers' own just-in-time checkpoints don't do: their flag
belongs to one rank, so that the others wait for it forever when signals come at different moments, and train() returns
as if it had finished.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from alignment.runs import artifacts, stopping
from alignment.runs.manifest import MANIFEST, Manifest, damage, hash_file
from alignment.runs.ranks import Ranks
from alignment.types import Stopped


def train(trainer: Trainer, what: str, ranks: Ranks) -> None:
    """Trains to the end, from the newest intact checkpoint; raises Stopped if it was asked to stop before that."""
    checkpoint = ranks.from_main(lambda: newest_intact(Path(trainer.args.output_dir), ranks.say))
    if checkpoint is not None:
        ranks.say(f"  {what}: goes on after step {checkpoint.name.rpartition('-')[2]}")
    stops = _Stops(ranks)
    trainer.add_callback(stops)
    with suppress(_AtEnd):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stops.step is not None and stops.step < trainer.state.max_steps:  # else it is done, and what follows may be, too
        raise Stopped(f"{what}, at step {stops.step} of {trainer.state.max_steps}")


class _AtEnd(Exception):
    """The checkpoint that a training was to go on from is its last one."""


class _Stops(TrainerCallback):
    """Ends a training where it has nothing left to do, or was asked to stop, `step` being its last step."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.step: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:  # Trainer would take one more step, unless an epoch ends there
            raise _AtEnd

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.logging_steps == 0 and self._ranks.any(stopping.asked()):
            control.should_save = control.should_training_stop = True
            self.step = state.global_step


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def seal_checkpoints(trainer: Trainer, save_beside: Callable[[Path], None] | None = None) -> None:
    """From now on every checkpoint is sealed before other callbacks are called: they may copy it away.

    save_beside: writes what else belongs into a checkpoint; the main process calls it.
    """
    trainer.callback_handler.callbacks.insert(0, _Seal(trainer.accelerator, save_beside))


class _Seal(TrainerCallback):
    """Seals a checkpoint once the files of all ranks are on disk: from then on it can be resumed from."""

    def __init__(self, accelerator: Any, save_beside: Callable[[Path], None] | None) -> None:
        self._accelerator, self._save_beside = accelerator, save_beside

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._accelerator.wait_for_everyone()
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self._save_beside is not None:
                self._save_beside(folder)
            seal(folder)
        self._accelerator.wait_for_everyone()  # a rank that ended now would end the sealing one, too


def seal(folder: Path) -> None:
    """Writes the hashes of a finished checkpoint's files."""
    artifacts.sync_tree(folder)
    files = {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = Manifest("checkpoint", {}, {}, {}, files=files)
    artifacts.write_json(folder / MANIFEST, vars(manifest))


def newest_intact(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from. Broken ones are named and removed: Trainer would count them as ones to keep."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    checkpoints = [path for path, step in steps.items() if step.isdigit()]
    for path in sorted(checkpoints, key=lambda path: int(steps[path]), reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        say(f"  passing over {path.name}: {problem}")
        shutil.rmtree(path, ignore_errors=True)
    return None
