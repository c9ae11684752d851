"""Checkpoints to resume from: sealed by a manifest written last, and believed only if every file still matches it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from alignment.runs import artifacts
from alignment.runs.manifest import MANIFEST, Manifest, damage, hash_file


def seal_checkpoints(trainer: Trainer, save_beside: Callable[[Path], None] | None = None) -> None:
    """From now on each of its checkpoints is sealed, before other callbacks hear of it: they may copy it away.

    save_beside: writes what else belongs into a checkpoint; called on the main process.
    """
    trainer.callback_handler.callbacks.insert(0, _Seal(trainer.accelerator, save_beside))


class _Seal(TrainerCallback):
    """A checkpoint becomes one to resume from when everything in it, of all ranks, is on disk."""

    def __init__(self, accelerator: Any, save_beside: Callable[[Path], None] | None) -> None:
        self._accelerator, self._save_beside = accelerator, save_beside

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._accelerator.wait_for_everyone()
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self._save_beside is not None:
                self._save_beside(folder)
            seal(folder)
        self._accelerator.wait_for_everyone()  # a rank that ended now would take the one that seals with it


def seal(folder: Path) -> None:
    """Writes the hashes of a finished checkpoint's files."""
    artifacts.sync_tree(folder)
    files = {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = Manifest("checkpoint", {}, {}, {}, files=files)
    artifacts.write_json(folder / MANIFEST, {**vars(manifest)})


def newest_intact(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from. Broken ones are named and removed: they would count among those that are kept."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        say(f"  passing over {path.name}: {problem}")
        shutil.rmtree(path, ignore_errors=True)
    return None
