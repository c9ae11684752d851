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
    """A copy on the device, without waiting for what the device still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor to the host, and returns a function that waits for the copy and gives it."""
    if tensor.device.type != "cuda":
        copy = tensor.cpu()
        return lambda: copy
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copied, stream = torch.cuda.Event(), torch.cuda.Stream(tensor.device)  # beside what is computed next
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(stream):
        copy.copy_(tensor, non_blocking=True)
        copied.record()
    tensor.record_stream(stream)

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait


def free_memory() -> None:
    """Frees models that nobody uses any more: they refer to themselves, so that only gc finds them."""
    gc.collect()
    torch.cuda.empty_cache()


def training_dtype(precision: Precision) -> str:
    """ "auto" is bfloat16 on GPUs that have it (emulated it is slower than float32), float32 elsewhere."""
    if precision != "auto":
        return precision
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"
