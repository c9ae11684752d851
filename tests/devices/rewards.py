"""A hybrid reward of the tiny models' shape with random numbers: fitting one takes longer than these tests."""

import torch

from alignment.maths.hybrid import Head, vote_shape
from alignment.models.hybrid_reward import HybridReward
from alignment.types import Gate, Pooling

LAYERS, WIDTH = 3, 32


def some_reward(gate: Gate = "sigmoid_scores", pooling: Pooling = "endpoint") -> HybridReward:
    random = torch.Generator().manual_seed(0)
    weight, scale = torch.randn(LAYERS, WIDTH, generator=random), torch.rand(LAYERS, WIDTH, generator=random) + 0.5
    head = Head(weight, torch.zeros(LAYERS), torch.randn(vote_shape(gate, LAYERS), generator=random), gate)
    return HybridReward(torch.zeros(LAYERS, WIDTH), scale, head, pooling, 1.0, {})
