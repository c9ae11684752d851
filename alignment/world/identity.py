"""Hashes of the world's generator and of its language model, which name its version in reports and manifests."""

import hashlib
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
LANGUAGE_MODEL = HERE / "model"  # comes with the package, as from_pretrained loads it; make.py trains it again


@cache
def generator_hash() -> str:
    """The hash of the sources of its words, requests, answers, labels and oracle."""
    digest = hashlib.sha256()
    for name in ("lexicon.py", "grammar.py", "preferences.py", "oracle.py"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


@cache
def model_hash() -> str:
    """The hash of the language model's weights."""
    return hashlib.sha256((LANGUAGE_MODEL / "model.safetensors").read_bytes()).hexdigest()[:16]
