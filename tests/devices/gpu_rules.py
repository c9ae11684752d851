"""What a GPU does with an operation, as PyTorch 2.13 is known to: what it refuses, and when the host waits.

None of this was seen to be true here, where there is no GPU. benchmarks/gpu.sh compares it with one
(docs/gpus.md).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

OnDevice = Callable[[Tensor], bool]

# Their results' shapes, or their results themselves, are the host's business.
WAITING = {
    "_local_scalar_dense": "item",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "unique_dim_consecutive": "unique",
    "equal": "equal",
    "bincount": "bincount",
    "_linalg_check_errors": "the errors of a decomposition",
    "linalg_lstsq": "lstsq",
}
INDEXING = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
# They look at their level on a CPU alone (aten/src/ATen/native/Sorting.cpp, quantile_checks).
LOOKING_ON_A_CPU = (torch.quantile, torch.nanquantile, torch.Tensor.quantile, torch.Tensor.nanquantile)


class MixedError(RuntimeError):
    """A GPU would refuse it: some tensors are the host's, some the device's."""


def kept_quiet(func: Any) -> bool:
    return func in LOOKING_ON_A_CPU


def refuse_mixture(func: Any, args: tuple, kwargs: dict, on_device: OnDevice, on_host: OnDevice) -> None:
    """Given to an operation that has a tensor of the device. Numbers without dimensions may be the host's."""
    name = func.overloadpacket.__name__
    if name == "copy_":
        return
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise MixedError(f"{name}: the generator is the host's")
    if name in INDEXING and not on_device(args[0]):
        raise MixedError(f"{name}: the host's tensor is indexed, or written to, with the device's")
    for argument, value in _arguments(func, args, kwargs):
        written = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(tensor, Tensor) or not on_host(tensor):
                continue
            if name in INDEXING and argument.name == "indices":
                continue
            if written or tensor.dim() > 0:
                raise MixedError(f"{name}: {argument.name} {tuple(tensor.shape)} is the host's, others the device's")


def waits_for(func: Any, args: tuple, kwargs: dict, on_device: OnDevice) -> Iterator[str]:
    """Why the host waits for the device in this operation, which has a tensor of it."""
    name = func.overloadpacket.__name__
    if name in WAITING:
        yield WAITING[name]
    elif name in INDEXING:
        yield from _indexing(name, *args[:3], on_device=on_device)
    elif name == "repeat_interleave" and kwargs.get("output_size") is None:
        yield "repeat_interleave"
    elif name == "isin" and isinstance(args[1], Tensor) and args[1].numel() >= 10 * args[0].numel() ** 0.145:
        yield "isin of many, which sorts"  # aten/src/ATen/native/TensorCompare.cpp: otherwise it compares them all
    elif name == "copy_":
        yield from ()


def _indexing(
    name: str, tensor: Tensor, indices: Any, values: Tensor | None = None, *, on_device: OnDevice
) -> Iterator[str]:
    given = [index for index in indices if index is not None]
    booleans = [index for index in given if index.dtype in (torch.bool, torch.uint8)]
    filled = values is not None and len(given) == 1 and values.numel() == 1 and not on_device(values)
    if booleans and not filled:  # one mask and one number of the host's is a fill
        yield "a boolean index"
    elif any(not on_device(index) for index in given):
        yield "a copy of an index from the host"


def _arguments(func: Any, args: tuple, kwargs: dict) -> Iterator[tuple[Any, Any]]:
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            yield argument, args[place]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]
