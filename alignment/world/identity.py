"""What names this version of the world in reports and manifests: hashes of its generator and of its language model."""

import hashlib
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
LANGUAGE_MODEL = HERE / "model"  # comes with the package, as from_pretrained loads it; make.py makes it again


@cache
def generator_hash() -> str:
    """Of the sources of its words, requests, answers, labels and oracle."""
    digest = hashlib.sha256()
    for name in ("lexicon.py", "grammar.py", "preferences.py", "oracle.py"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


@cache
def model_hash() -> str:
    """Of its weights."""
    return hashlib.sha256((LANGUAGE_MODEL / "model.safetensors").read_bytes()).hexdigest()[:16]
