"""Where a rank's tensors live, and in what precision it trains."""

import torch

from alignment.ranks import process_state


def device() -> torch.device:
    """This rank's accelerator, or the CPU."""
    return process_state().device


def training_dtype(precision: str) -> str:
    """ "auto" is bfloat16 on GPUs that have it, float32 elsewhere."""
    if precision != "auto":
        return precision
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
