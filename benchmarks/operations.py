"""How many operations the mathematics of a preference pair needs, whatever an implementation computes beside them.

A multiply-add is two operations. Needed tokens: the prompt once, and both answers. Of each: the products with the dense
weights of the blocks; attention, which is two products of the width with every key that a token sees; the
language-model head, for the tokens of answers alone. Norms, softmax, embeddings and the optimiser are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama whose heads all have keys of their own."""

    layers: int
    width: int
    intermediate: int
    vocabulary: int

    @property
    def dense(self) -> int:
        """Weights of a block that every token is multiplied with: four of attention, three of the gated network."""
        return 4 * self.width**2 + 3 * self.width * self.intermediate


# How often the forward pass's operations are needed: the backward pass needs them twice more, the reference once more.
TRAINING, TRAINING_WITH_REFERENCE = 3, 4
TRAINING_LORA_WITH_REFERENCE = 3  # only activations have gradients


def forward_operations(shape: Shape, prompt: int, answers: Sequence[int], head: bool) -> int:
    """One forward pass over a prompt and its answers."""
    tokens = prompt + sum(answers)
    keys = prompt * (prompt + 1) // 2 + sum(length * prompt + length * (length + 1) // 2 for length in answers)
    dense = 2 * shape.dense * tokens
    attention = 4 * shape.width * keys
    scores = 2 * shape.width * shape.vocabulary * sum(answers) if head else 0
    return shape.layers * (dense + attention) + scores


def live_reward_operations(shape: Shape, pairs: int) -> int:
    """What a live reward adds to a step: scores of both answers, once to judge and once to learn from, the gradient of
    its weights, and AdamW, a dozen operations a weight. The gate's few weights are left out."""
    weights = shape.layers * shape.width
    return 2 * pairs * (2 + 2 + 2) * weights + 12 * weights


def online_operations(shape: Shape, prompt: int, answer: int) -> int:
    """What online sampling adds for each pair: two answers are generated, and a reward model of the policy's size reads
    them. Prompts are computed once, so this is the least it can cost; learning of the reward model is left out."""
    generation = forward_operations(shape, prompt, [answer, answer], head=True)
    return generation + forward_operations(shape, prompt, [answer, answer], head=False)
