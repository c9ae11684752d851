"""The runs that a recipe compares: folders of finished runs, or a folder of them, as a sweep leaves."""

import hashlib
from pathlib import Path

from omegaconf import DictConfig

from alignment.runs.manifest import hash_file, unusable
from alignment.runs.run_files import RunDir
from alignment.types import UserError

KEY = "compare.runs"


def compared_runs(cfg: DictConfig) -> dict[str, RunDir]:
    """The runs by name: the folder's own, or its path where two have the same."""
    folders: list[Path] = []
    for given in map(Path, cfg.compare.runs):
        within = [] if RunDir(given).report.exists() else sorted(path.parent for path in given.glob("*/report.json"))
        folders += within or [given]
    for folder in folders:
        if not RunDir(folder).report.exists():
            raise UserError(KEY, f"{folder} has no report.json", "give folders of runs that have ended, or of a sweep")
        if RunDir(folder).stage("evaluate").exists() and (problem := unusable(RunDir(folder), "evaluate")):
            raise UserError(KEY, f"{folder}/evaluate: {problem}", "run that recipe again")
    if len(set(map(Path.resolve, folders))) < max(len(folders), 2):
        found = ", ".join(map(str, folders)) or "none"
        raise UserError(KEY, f"two different runs are wanted, and there is {found}", "compare.runs=[runs/a,runs/b]")
    names = [folder.name for folder in folders]
    return {folder.name if names.count(folder.name) == 1 else str(folder): RunDir(folder) for folder in folders}


def runs_hash(cfg: DictConfig) -> str:
    """A hash of what those runs found."""
    if not cfg.compare.runs:
        return ""
    digest = hashlib.sha256()
    for name, run in compared_runs(cfg).items():
        for path in (run.report, run.answers, run.verdicts, run.usefulness, run.reward_scores):
            digest.update(f"{name} {path.name} {hash_file(path) if path.exists() else ''}\n".encode())
    return digest.hexdigest()
