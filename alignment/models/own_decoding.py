"""How answers are sampled where the settings leave it open: as the model's own generation configuration says."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig

from alignment.models.source import ModelSource, ready_path
from alignment.runs.once import once

# what each is where neither says anything: the model's distribution as it is
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def with_own_decoding(sampling: Mapping[str, Any], source: ModelSource, say: Callable[[str], None]) -> dict[str, Any]:
    """The settings with a value in the place of every null; what is the model's own is said, once a run."""
    own = _own_decoding(source)
    taken = {name: value for name, value in own.items() if sampling[name] is None}
    if taken:
        settings = ", ".join(f"{name} {value:g}" for name, value in taken.items())
        line = (
            f"  answers are sampled as the model's generation configuration says: {settings} (sampling.* overrides it)"
        )
        if once.first(line):
            say(line)
    return {name: (PLAIN | taken)[name] if value is None else value for name, value in sampling.items()}


def _own_decoding(source: ModelSource) -> dict[str, float]:
    """What a model's generation configuration says of sampling; most of it counts only where it says to sample."""
    try:
        config = GenerationConfig.from_pretrained(ready_path(source), revision=source.revision)
    except OSError:  # not every model has one
        return {}
    names = PLAIN if config.do_sample else ("repetition_penalty",)
    return {name: value for name in names if (value := getattr(config, name, None)) not in (None, PLAIN[name])}
