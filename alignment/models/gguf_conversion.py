"""A model's GGUF file, dequantised once into a folder of the cache: from then on it is a folder as any other.

The weights are kept in float32, which holds what the blocks of a quantised file say exactly.
"""

import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.models.gguf_header import OTHER_FILE, architecture_of
from alignment.runs.cache import cache_folder, made_once
from alignment.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def converted(path: Path, file_hash: str, key: str) -> Path:
    """The folder that a GGUF file becomes. key: the setting that gave the path, which errors name."""
    return made_once(models_folder() / file_hash, lambda folder: convert(path, folder, key))


def models_folder() -> Path:
    return cache_folder() / "models"


def convert(path: Path, folder: Path, key: str, decoding: Mapping[str, float] | None = None) -> None:
    """Writes what a GGUF file holds as a model's folder. decoding: how its makers advise to sample from it."""
    from transformers.utils.logging import (
        disable_progress_bar,
    )  # here, since this is imported before anything is loaded

    architecture = architecture_of(path, key)
    print(f"repalign: {path.name} is dequantised, once, into {folder.parent}", file=sys.stderr, flush=True)
    try:
        with redirect_stderr(io.StringIO()):  # a bar that moves, in files too
            model, tokenizer, lacking = _read(path)
    except MemoryError:
        raise
    except Exception as error:  # whatever transformers comes upon in a file that isn't what it says
        first = next(iter(str(error).splitlines()), "").rstrip(".")
        problem = f"transformers can't read {path}, of the architecture {architecture!r}"
        raise UserError(key, f"{problem} ({type(error).__name__}: {first})", OTHER_FILE) from error
    if lacking:
        raise UserError(key, f"{path} {lacking}", OTHER_FILE)
    disable_progress_bar()
    if decoding:
        model.generation_config.update(do_sample=True, **decoding)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(path: Path) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase", str | None]:
    """The model and its tokenizer, and what the file lacks of them, in words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    dequantised = GgufConfig(dequantize=True)
    model, found = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=dequantised, output_loading_info=True
    )
    tokenizer, lacking = AutoTokenizer.from_pretrained(**where), None
    if missing := sorted(found["missing_keys"]):
        lacking = f"lacks the weights of {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
    elif not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        lacking = "holds weights that are not finite"
    elif len(tokenizer) > model.config.get_text_config().vocab_size:
        lacking = "has more tokens than its model has embeddings"
    model.config.name_or_path = path.stem
    if hasattr(model.config, "quantization_config"):  # none is left in the weights, and it can't be saved with them
        del model.config.quantization_config
    return model, tokenizer, lacking
