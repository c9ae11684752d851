"""Where the world's language model is kept: trained once per machine, in the user's cache, under a hash of its making.

Several processes may ask at once: one trains, the others wait for it. Nothing heavy is imported unless it must train.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from functools import cache
from pathlib import Path

from alignment.locks import lock

SUMS = "sha256.json"


def language_model() -> Path:
    """The folder of the pretrained model, trained first if this machine doesn't have it yet."""
    folder = cache_folder() / f"world-{fingerprint()}"
    if not _intact(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as held:
            lock(held, wait=True)
            if not _intact(folder):
                shutil.rmtree(folder, ignore_errors=True)  # half deleted or damaged
                from alignment.world.language_model import pretrain

                unfinished = folder.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                pretrain(unfinished)
                (unfinished / SUMS).write_text(json.dumps(_sums(unfinished)))
                unfinished.rename(folder)
    return folder


def _intact(folder: Path) -> bool:
    """Every file as it was when the model was trained."""
    try:
        return json.loads((folder / SUMS).read_text()) == _sums(folder)
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.name != SUMS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repalign"


@cache
def fingerprint() -> str:
    """A hash of all that shapes the weights: the world's sources and the versions that run them."""
    digest = hashlib.sha256()
    for library in ("torch", "transformers", "tokenizers"):
        digest.update(f"{library} {importlib.metadata.version(library)}\n".encode())
    for name in ("lexicon.py", "grammar.py", "pretraining.py", "language_model.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]
