"""Checkpoints to resume from: sealed by a manifest written last, and believed only if every file still matches it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from alignment.runs import artifacts
from alignment.runs.manifest import MANIFEST, Manifest, damage, hash_file


class SealedCheckpoints:
    """Mixin for a Trainer: a checkpoint becomes one to resume from when everything in it is on disk."""

    def save_beside(self, folder: Path) -> None:
        """For trainers that have more to keep in a checkpoint; the main process writes it."""

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.save_beside(folder)
            seal(folder)
        self.accelerator.wait_for_everyone()  # a rank that ended now would take the one that seals with it


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
