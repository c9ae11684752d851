"""Fits the heads of a hybrid reward to states: standardised layers, one after the other, and from there maths alone.

Few dimensions are fitted as they are, in float64, on one thread. Where there are more of them than answers, or many,
the fit is in the answers' span (maths/span_probes.py), which reads each layer once and keeps the products of answers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.maths.cross_fitting import Fitted, fit_gates, fit_span_start, fit_start
from alignment.maths.layers import each_layer
from alignment.maths.probes import Standard, standard
from alignment.models.devices import for_large_products
from alignment.runs.bars import bar
from alignment.types import Gate

MANY = 1024  # dimensions: from here on products of answers are cheaper, however many answers there are
KEPT = 40  # tensors of up to 16 MB that a thread holds on to once they are free; measured at 250 to 1,000 pairs


class FittedHeads(NamedTuple):
    """Heads that read standardised states, their weights times their width; and how the states are standardised."""

    mean: Tensor
    scale: Tensor
    gates: dict[Gate, Fitted]


@torch.inference_mode(False)
@torch.no_grad()
def fit_heads(
    chosen: Tensor, rejected: Tensor, gates: Sequence[Gate], seed: int, margin: float, prompts: Tensor | None = None
) -> FittedHeads:
    """A head per gate, from the same probes and folds: what they have in common is computed once.

    prompts: a number for each pair; those of one number share a fold.
    """
    (pairs, layers, width), generator = chosen.shape, torch.Generator().manual_seed(seed)
    with _one_thread() as threads, bar(None, "fitting the hybrid reward", layers + len(gates), "part") as progress:
        if not _in_span(pairs, width):
            standards = [_standard(chosen, rejected, layer) for layer in range(layers)]
            x = [_standardised(chosen, rejected, layer, by) / width**0.5 for layer, by in enumerate(standards)]
            start = fit_start(torch.stack(x), generator, prompts)
            progress.update(layers)
            del x
        else:
            device = for_large_products()
            workers = threads if device.type == "cpu" else 1
            found: dict[int, Standard] = {}

            def products(layer: int) -> Tensor:
                found[layer] = _standard(chosen, rejected, layer)
                z = (_standardised(chosen, rejected, layer, found[layer]) / width**0.5).float().to(device)
                progress.update()
                return z @ z.T

            empty = torch.empty(layers, 2 * pairs, 2 * pairs, device=device)
            start = fit_span_start(products, empty, generator, workers, prompts)
            standards = [found[layer] for layer in range(layers)]
        fitted = fit_gates(start, gates, margin, progress.update)
        weights = {gate: width**0.5 * of_gate.head.weight for gate, of_gate in fitted.items()}
        if start.span:
            weights = _lifted(chosen, rejected, standards, fitted, workers)
    mean, scale = (torch.stack(values) for values in zip(*standards, strict=True))
    return FittedHeads(mean, scale, {gate: _on_states(of, weights[gate]) for gate, of in fitted.items()})


def fitting_bytes(pairs: int, layers: int, width: int, workers: int) -> tuple[int, int]:
    """What a fit takes at most beside the states: of the host, and where it computes, a GPU or the host again."""
    rows = 2 * pairs
    if not _in_span(pairs, width):  # x; its rows outside a fold, and these beside a constant
        return 8 * (3 * layers * rows * width + 3 * width**2), 0
    states = 8 * rows * width  # a layer's in float64: four at a time as they are standardised, and what threads keep
    return workers * (4 * states + KEPT * min(states, 2**24)), 4 * layers * rows**2 + workers * 3 * 8 * rows**2


def _in_span(pairs: int, width: int) -> bool:
    return width > min(2 * pairs, MANY)


def _lifted(
    chosen: Tensor, rejected: Tensor, standards: list[Standard], fitted: dict[Gate, Fitted], workers: int
) -> dict[Gate, Tensor]:
    """From numbers for answers back to the dimensions of a state: of each layer once, for all gates."""

    def lift(layer: int) -> Tensor:
        in_span = torch.stack([of_gate.head.weight[layer] for of_gate in fitted.values()], dim=1).cpu()
        return (_standardised(chosen, rejected, layer, standards[layer]).T @ in_span).T

    lifted = torch.stack(each_layer(lift, len(standards), workers), dim=1)
    return dict(zip(fitted, lifted, strict=True))


def _on_states(fitted: Fitted, weight: Tensor) -> Fitted:
    vote = None if fitted.head.vote is None else fitted.head.vote.cpu()
    head = fitted.head._replace(weight=weight, bias=fitted.head.bias.cpu(), vote=vote)
    return fitted._replace(
        head=head, heldout_gaps=fitted.heldout_gaps.cpu(), heldout_confidences=fitted.heldout_confidences.cpu()
    )


def _both(chosen: Tensor, rejected: Tensor, layer: int) -> Tensor:
    """One layer's states in float64, chosen answers first: never all layers at once."""
    return torch.cat([chosen[:, layer], rejected[:, layer]]).to("cpu", torch.float64)


def _standard(chosen: Tensor, rejected: Tensor, layer: int) -> Standard:
    return standard(_both(chosen, rejected, layer), f"layer {layer + 1} of the states")


def _standardised(chosen: Tensor, rejected: Tensor, layer: int, by: Standard) -> Tensor:
    return (_both(chosen, rejected, layer) - by.mean) / by.scale


@contextmanager
def _one_thread() -> Iterator[int]:
    """Computes on one thread: of many small products several gain little, and they round differently. Gives the number
    of threads there were, for layers side by side. Products of float32 are not cut to fewer digits, as training may."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
