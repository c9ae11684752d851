"""Layers side by side, each in a thread that computes on one core: its numbers are the same, however many there are."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def each_layer(compute: Callable[[int], Result], layers: int, workers: int = 1) -> list[Result]:
    """What `compute` gives for every layer, in their order. The first mistake ends it, whatever layer it is of."""
    if workers == 1 or layers == 1:
        return [compute(layer) for layer in range(layers)]
    # a thread has a number of threads of its own in torch, which begins as the machine's
    with ThreadPoolExecutor(min(workers, layers), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(compute, range(layers)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
