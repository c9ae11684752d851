"""The noise that samples an answer's tokens: keyed by seed, prompt, sample, position and token, whatever the run.

    token = argmax_v [ logit_v + G_v ],   G_v = -log(-log U_v)        the Gumbel trick: a draw from softmax(logits)

U_v is a hash of the key, so that an answer doesn't depend on its batch, on the number of ranks, or on where a killed
run went on. The hash is the finaliser of SplitMix64 (Steele et al. 2014), in int64 arithmetic, which wraps around.
"""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_BITS = 52  # bits of a double's fraction: the largest (bits + 1/2) / 2^52 is still below 1


def row_key(seed: int, prompt: str, sample: int) -> int:
    """The key of the `sample`-th answer to the prompt of this name, under this seed."""
    digest = hashlib.sha256(f"{seed}/{prompt}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def gumbel(keys: Int[Tensor, " row"], position: int, vocabulary: int) -> Float[Tensor, "row token"]:
    """The noise of every token at one position of every answer."""
    return gumbel_of(torch.arange(vocabulary, device=keys.device)[None], keys, position)


def gumbel_of(
    tokens: Int[Tensor, "#row token"], keys: Int[Tensor, " row"], position: int
) -> Float[Tensor, "row token"]:
    """The noise of these tokens: a row of tokens for each answer, or one row for all. In place: the tensor is large."""
    rows = _mix(keys + _wrapped((position + 1) * _GOLDEN))
    mixed = _mix(rows[:, None] + (tokens + 1) * _GOLDEN)
    uniform = _shift(mixed, 64 - _BITS).double().add_(0.5).mul_(2.0**-_BITS)
    return uniform.log_().neg_().log_().neg_()


def _wrapped(number: int) -> int:
    """The number as int64 arithmetic has it."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(x: Tensor) -> Tensor:
    """Mixes the bits of x, in place."""
    x = x.bitwise_xor_(_shift(x, 30)).mul_(_FIRST)
    x = x.bitwise_xor_(_shift(x, 27)).mul_(_SECOND)
    return x.bitwise_xor_(_shift(x, 31))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shifts to the right and fills up with zeros: torch's own shift keeps the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
