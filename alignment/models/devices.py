"""Where a rank's tensors live, how they are copied and drawn there, and in what precision it trains.

Whatever is said to a device beside what it computes (copies, streams, events, pinned memory, generators) is said here:
tests/devices/streams.py has the same without a device, and checks the order.
"""

import copy
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.runs.ranks import process_state
from alignment.types import Precision

if TYPE_CHECKING:
    from transformers import TrainingArguments


def device() -> torch.device:
    """This rank's accelerator, or the CPU."""
    return process_state().device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, without waiting for what the device still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor to the host, and returns a function that waits for the copy and gives it."""
    if tensor.device.type != "cuda":
        there = tensor.cpu()
        return lambda: there
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copied, stream = torch.cuda.Event(), torch.cuda.Stream(tensor.device)  # beside what is computed next
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(stream):
        there.copy_(tensor, non_blocking=True)
        copied.record()
    tensor.record_stream(stream)

    def wait() -> Tensor:
        copied.synchronize()
        return there

    return wait


def copy_batches_beside(args: "TrainingArguments") -> None:
    """Lets Trainer copy batches to a device while that computes, from pinned memory."""
    if args.device.type != "cpu":
        args.dataloader_pin_memory, args.accelerator_config = True, copy.copy(args.accelerator_config)
        args.accelerator_config.non_blocking = True


def without_a_trace(device: torch.device) -> AbstractContextManager:
    """Random numbers drawn within, by the host or by this device, don't change those drawn after it."""
    return torch.random.fork_rng([] if device.type == "cpu" else [device])


def for_large_products() -> torch.device:
    """A GPU where there is one, even for a rank without: a fit takes its tensors there and back."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
