"""How far bfloat16 may take a model's results from float32: derived, not tuned.

bfloat16 keeps 8 bits, so a rounding is off by at most u = 2^-9 of the number. A block rounds ROUNDINGS numbers one
after the other, and their errors are independent: what it writes is off by u sqrt(ROUNDINGS) of its size. They are the
inputs, weights and results of its seven products (14, as some run side by side), rotated queries and keys (3) and their
norms (2), the weights of attention and their logarithms (2), the activation and what it multiplies (2), the norms
before and after each half (4), in a model that is bfloat16 throughout the sum after each half (2), and the final norm.

On its way to the result a disturbance grows by a gain, which is measured on the float32 model: each block's output is
disturbed by a known share, and the result moves by gain times that. Independent blocks add up in squares, so that

    rms(result in bfloat16 - result in float32) <= u sqrt(ROUNDINGS sum over blocks of gain^2) rms(result)

and the largest of some ten thousand errors, of rows that aren't all alike, lies within DEVIATIONS times that: 4 of
normal errors, and rows up to twice as large as most.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alignment.models.activations import decoder_blocks

UNIT = 2.0**-9
ROUNDINGS = 30
DEVIATIONS = 8
SHARE = 1e-3  # of a disturbance: far above float32's rounding, and small enough for its effect to be in proportion


def relative_error(model: nn.Module, result: Callable[[], Tensor]) -> float:
    """The root mean square by which bfloat16 may move `result`, which this float32 model gives, over its own."""
    plain = result().detach()
    blocks, _ = decoder_blocks(model)
    gains = [_disturbed(module, result, plain) for module in (model.get_input_embeddings(), *blocks)]
    return UNIT * (ROUNDINGS * sum(gain**2 for gain in gains)) ** 0.5


def size(tensor: Tensor) -> float:
    """Its root mean square."""
    return float(tensor.square().mean().sqrt())


def _disturbed(module: nn.Module, result: Callable[[], Tensor], plain: Tensor) -> float:
    """By how many times its share a disturbance of this module's output moves the result, both as root mean squares."""
    random = torch.Generator().manual_seed(0)

    def disturb(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        hidden = output[0] if isinstance(output, tuple) else output
        noise = torch.randn(hidden.shape, generator=random)
        disturbed = hidden * (1 + SHARE * noise)
        return (disturbed, *output[1:]) if isinstance(output, tuple) else disturbed

    handle = module.register_forward_hook(disturb, prepend=True)
    try:
        moved = result().detach()
    finally:
        handle.remove()
    return size(moved - plain) / size(plain) / SHARE
