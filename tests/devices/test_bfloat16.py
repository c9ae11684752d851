"""bfloat16 beside float32, on every way: as far apart as rounding takes them (rounding.py), and no further.

On a CPU, whose products are float32 inside as a GPU's are; autocast rounds the same operations on both.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from alignment.maths.losses import confidence_dpo_loss
from alignment.models.activations import layer_count, response_states
from alignment.models.completions import add_completion_head, answer_rewards, by_answer, token_log_probs
from alignment.models.decoding import generate_ids
from alignment.models.load import Loaded
from alignment.trainers.live_reward import LiveReward
from tests.devices.rewards import some_reward
from tests.devices.rounding import DEVIATIONS, relative_error, size
from tests.devices.test_waits import FORMAT, attention_of
from tests.models.test_decoding import PROMPTS
from tests.models.test_packing import (  # noqa: F401 (more_architectures: a fixture)
    END,
    NAMES,
    PACKED,
    model_of,
    more_architectures,
    some_items,
)

WAYS = {
    "autocast": lambda model: torch.autocast("cpu", torch.bfloat16),
    "bfloat16 throughout": lambda model: model.to(torch.bfloat16) and torch.no_grad(),
}
ITEMS = some_items()
BATCH = PACKED.batch(ITEMS)


def states(model) -> Tensor:
    layers = range(1, layer_count(model) + 1)
    return response_states(model.base_model, PACKED, ITEMS, layers, "endpoint", {END})[0]


def log_probs(model) -> Tensor:
    return token_log_probs(model, model, PACKED, BATCH).float()


def next_scores(model) -> Tensor:
    """What decoding chooses by: of the prompts' next tokens, and of three that follow."""
    seen: list[Tensor] = []

    def choose(ids: Tensor, scores: Tensor, numbers: Tensor, position: int) -> Tensor:
        seen.append(scores.clone())
        return 100 + 7 * numbers + position

    generate_ids(Loaded(model, FORMAT, {END}), PROMPTS, 4, choose)
    return torch.stack(seen)


def rewards(model) -> Tensor:
    return answer_rewards(model, model, PACKED, BATCH)


def gradient(model) -> Tensor:
    """Of all weights, of a sum in which every answer counts otherwise."""
    per_answer = by_answer(token_log_probs(model, model, PACKED, BATCH).float(), BATCH)
    total = (per_answer * torch.linspace(-1, 2, len(per_answer))).sum()
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(total, [*model.parameters()])])


RESULTS: dict[str, Callable] = {
    "states": states, "next scores": next_scores, "log-probabilities": log_probs, "rewards": rewards,
}  # fmt: skip


def model_for(what: str, name: str):
    if what == "rewards":
        return model_of(name, attention_of(name), AutoModelForSequenceClassification)
    model = model_of(name, attention_of(name))
    if what in ("log-probabilities", "gradient"):
        add_completion_head(model)
    return model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted({*NAMES} - {"mistral"}))  # without a window a Llama
def test_a_model_is_off_by_its_roundings(name, way):
    """Measured: 0.06 to 0.63 of what is allowed."""
    for what, result in RESULTS.items():
        model = model_for(what, name)
        expected = result(model).detach()
        allowed = DEVIATIONS * relative_error(model, partial(result, model)) * size(expected)
        with WAYS[way](model):
            apart = float((result(model).detach() - expected).abs().max())
        assert 0 < apart <= allowed, what


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_so_is_a_gradient(name):
    """The backward pass rounds twice as often as the forward pass, on the same ways: three times in all."""
    model = model_for("gradient", name)
    expected = gradient(model)
    allowed = 3**0.5 * relative_error(model, partial(gradient, model)) * size(expected)
    with WAYS["autocast"](model):
        apart = size(gradient(model) - expected)
    assert 0 < apart <= allowed


def test_the_live_reward_and_its_refit_are_float64_under_autocast():
    """Of the same states they are the same bits: autocast leaves float64 alone, on every device."""
    model = model_for("states", "llama")
    with WAYS["autocast"](model):
        read = states(model)
    found = []
    for context in (torch.autocast("cpu", torch.bfloat16), torch.no_grad()):
        live = LiveReward(some_reward(), "margin", 1.0, 0.01, 0.01)
        with context:
            scored = live.rewards(read)
            live.add(*read.chunk(2))
            loss = live.step(lambda sums: sums)
        found.append([*scored, loss, *(value.detach() for value in live.reward.parameters())])
    assert all(torch.equal(*both) and both[0].dtype == torch.float64 for both in zip(*found, strict=True))


def test_a_reward_and_a_loss_move_no_further_than_what_they_are_of():
    """A reward under a static gate is linear: |change| <= sum over layers of |w| |probe| |change of states|. The slope
    of the loss in z is at most 1, and in gamma |z|."""
    model, reward = model_for("log-probabilities", "llama"), some_reward(gate="static_softmax")
    found = []
    for context in (torch.no_grad(), WAYS["autocast"](model)):
        with context, torch.no_grad():
            found.append((states(model), by_answer(log_probs(model), BATCH)))
    (exact, plain), (rounded, off) = found
    probe = reward.vote.softmax(dim=0)[:, None] * reward.weight / (reward.scale * reward.weight.shape[1])
    with torch.no_grad():
        allowed = torch.einsum("nlw,lw->n", (rounded - exact).abs().double(), probe.abs())
        moved = reward.score(rounded) - reward.score(exact)
    assert (moved.abs() > 0).all() and (moved.abs() <= allowed * (1 + 1e-9)).all()
    gammas = [torch.sigmoid(reward.alpha * torch.sub(*reward.score(read).chunk(2))) for read in (exact, rounded)]
    z = [0.1 * torch.sub(*log_probs.double().chunk(2)) for log_probs in (plain, off)]
    losses = [confidence_dpo_loss(*both) for both in zip(z, gammas, strict=True)]
    allowed = (z[1] - z[0]).abs() + torch.maximum(*map(torch.abs, z)) * (gammas[1] - gammas[0]).abs()
    assert ((losses[1] - losses[0]).abs() <= allowed + 1e-12).all() and (losses[1] != losses[0]).any()
