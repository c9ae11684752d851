"""Where the world's language model is kept: trained once per machine, in the user's cache, under a hash of its making.

Several processes may ask at once: one trains, the others wait for it. Nothing heavy is imported unless it must train.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
from functools import cache
from pathlib import Path


def language_model() -> Path:
    """The folder of the pretrained model, trained first if this machine doesn't have it yet."""
    folder = cache_folder() / f"world-{fingerprint()}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                from alignment.world.language_model import pretrain

                unfinished = folder.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                pretrain(unfinished)
                unfinished.rename(folder)
    return folder


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
