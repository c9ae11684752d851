"""The cache: what every run of a user may take again, made by the first process that wants it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from alignment.runs.artifacts import sync_tree
from alignment.runs.locks import lock


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repalign"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which `make` fills under another name if it isn't there; other processes wait meanwhile.

    Killed at any moment, this leaves the folder whole or not there, and what was begun is removed by the next one.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "a") as file:
        lock(file, wait=True)
        if folder.is_dir():  # another process made it
            return folder
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            make(unfinished)
            sync_tree(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder
