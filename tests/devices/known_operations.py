"""Operations of which it is known what a GPU does, each on a float tensor of four zeros on the device.

The modes are tested on them, and on a GPU benchmarks/gpu.sh tests what is said of them here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention

# The host waits for the device, once.
WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x == 0).all()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "a boolean index": lambda x: x[x == 0],
    "where of one": lambda x: torch.where(x == 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "masked_select": lambda x: x.masked_select(x == 0),
    "a tensor of numbers": lambda x: torch.tensor([1.0], device=x.device),
    "a copy of pageable memory": lambda x: torch.ones(2).to(x.device),
    "an index of the host": lambda x: x[torch.tensor([1, 2])],
    "an index of numbers": lambda x: x[[1, 2]],
    "repeat_interleave": lambda x: torch.repeat_interleave(x, torch.ones_like(x).long()),
    "a slice up to a number of the device": lambda x: x[: x.sum().long()],
}
# It doesn't.
FREE: dict[str, Callable[[Tensor], object]] = {
    "repeat_interleave of a known size": lambda x: torch.repeat_interleave(x, torch.ones_like(x).long(), output_size=4),
    "masked_fill": lambda x: x.masked_fill(x == 0, 1.0),
    "a number where a mask is": lambda x: x.__setitem__(x == 0, 1.0),
    "quantile": lambda x: x.quantile(0.5),
    "nanquantile": lambda x: x.nanquantile(0.5),
    "isin of few": lambda x: torch.isin(x, torch.zeros_like(x)[:2]),
    "argmax": lambda x: x.softmax(0).argmax().expand(3),
    "full": lambda x: torch.full((2,), 3.0, device=x.device),
    "a number of the host": lambda x: x + torch.ones(()),
    "a slice": lambda x: x[1:3].fill_(2.0),
    "a copy of pinned memory": lambda x: torch.ones(4).pin_memory().to(x.device, non_blocking=True),
}
# An error, since some tensors are the host's.
REFUSED: dict[str, Callable[[Tensor], object]] = {
    "a sum": lambda x: x + torch.ones(4),
    "the host's tensor and a number of the device": lambda x: torch.ones(2) * x[0],
    "cat": lambda x: torch.cat([x, torch.ones(2)]),
    "ids of the host": lambda x: embedding(torch.tensor([1]), x[:, None]),
    "a product": lambda x: x[:, None] @ torch.ones(1, 2),
    "a number of the device in one of the host": lambda x: torch.ones(()).add_(x[0]),
    "the host's tensor by an index of the device": lambda x: torch.ones(3)[x.long()],
    "numpy": lambda x: x.numpy(),
    "a generator of the host": lambda x: torch.multinomial(x + 1, 2, generator=torch.Generator()),
    "a condition of the host": lambda x: torch.where(torch.ones(4).bool(), x, x),
    "a mask of the host": lambda x: scaled_dot_product_attention(*[x.view(1, 1, 2, 2)] * 3, torch.ones(2, 2).bool()),
}
