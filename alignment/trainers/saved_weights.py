"""Weights as they are saved: in the precision that was asked for, and each once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from alignment.types import StageFailed

INDEX = "model.safetensors.index.json"
KINDS_OF_NUMBERS = ("dtype", "torch_dtype")  # of a configuration: as it is called now, and as it was


def round_saved(folder: Path, dtype: torch.dtype, tied: Mapping[str, str]) -> None:
    """Rounds the weights that lie in `folder` to `dtype`, and removes second copies of tied ones.

    Weights that training held in fewer bits stay as they are: more would hold nothing new. tied: by the name of a
    weight the name of the one that it is; under DeepSpeed both are written, since it copies all weights to save them.
    """
    files = sorted(folder.glob("*.safetensors"))
    where = {name: path for path in files for name in _names(path)}
    there = [(name, source) for name, source in tied.items() if name in where and source in where and name != source]
    twice = {name for name, source in there if torch.equal(_weight(where[name], name), _weight(where[source], source))}
    kept = torch.float32
    for path in files:
        weights = load_file(path)
        rounded = {name: _rounded(name, weight, dtype) for name, weight in weights.items() if name not in twice}
        kept = next((weight.dtype for weight in rounded.values() if weight.is_floating_point()), kept)
        if rounded.keys() != weights.keys() or any(weights[name].dtype != rounded[name].dtype for name in rounded):
            unfinished = path.with_suffix(".unfinished")
            save_file(rounded, unfinished, metadata={"format": "pt"})
            unfinished.replace(path)
    _rewrite(folder / "config.json", lambda config: _named(config, str(kept).removeprefix("torch.")))
    if (folder / INDEX).exists():
        size = sum(path.stat().st_size for path in files)
        _rewrite(folder / INDEX, lambda index: _without(index, twice, size))


def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Rounds a model's weights as `round_saved` does, and keeps them in the precision that they are in."""
    for name, parameter in model.named_parameters():
        parameter.data = _rounded(name, parameter.data, dtype).to(parameter.dtype)


def tied_weights(model: PreTrainedModel) -> dict[str, str]:
    """By the name of a weight that is another one: the name of that."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def _rounded(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    if not weight.is_floating_point() or weight.dtype.itemsize < dtype.itemsize:
        return weight
    rounded = weight.to(dtype)
    if dtype == torch.float16 and bool((rounded.isinf() & weight.isfinite()).any()):
        raise StageFailed("saved weights", f"{name} has numbers too large for float16", "set save_dtype=bfloat16")
    return rounded


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as weights:
        return list(weights.keys())


def _weight(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as weights:
        return weights.get_tensor(name)


def _rewrite(path: Path, change: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _named(config: Any, dtype: str) -> Any:
    """A configuration that names its precision, with those of its parts."""
    if not isinstance(config, dict):
        return config
    return {name: dtype if name in KINDS_OF_NUMBERS else _named(value, dtype) for name, value in config.items()}


def _without(index: dict, removed: set[str], size: int) -> dict:
    """The index of a model in several files, after some weights were removed."""
    weights = {name: file for name, file in index["weight_map"].items() if name not in removed}
    return {**index, "metadata": {**index.get("metadata", {}), "total_size": size}, "weight_map": weights}
