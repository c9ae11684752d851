"""Where a rank's tensors live, and in what precision it trains."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from alignment.runs.ranks import process_state
from alignment.types import Precision


def device() -> torch.device:
    """This rank's accelerator, or the CPU."""
    return process_state().device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy there, without waiting for what it still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor to the host; what it returns waits for that, and gives the copy."""
    if tensor.device.type != "cuda":
        copy = tensor.cpu()
        return lambda: copy
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copied, aside = torch.cuda.Event(), torch.cuda.Stream(tensor.device)  # beside what is computed next
    aside.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(aside):
        copy.copy_(tensor, non_blocking=True)
        copied.record()
    tensor.record_stream(aside)

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait


def free_memory() -> None:
    """Of models that nobody holds any more: they hold themselves in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def training_dtype(precision: Precision) -> str:
    """ "auto" is bfloat16 on GPUs that have it (emulated it is slower than float32), float32 elsewhere."""
    if precision != "auto":
        return precision
    return (
        "bfloat16"
        if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        else "float32"
    )
