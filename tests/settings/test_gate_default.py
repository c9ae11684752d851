"""The gate by default: the best one on real models, and the world's own with the world's model."""

from inspect import signature

import pytest

from alignment.models.hybrid_reward import HybridReward
from alignment.settings.compose import compose_config


@pytest.mark.parametrize("model, gate", [("world", "sigmoid_scores"), ("smollm2", "static_softmax")])
def test_the_gate_goes_with_the_model(model: str, gate: str) -> None:
    assert compose_config(["+recipe=cdpo", f"model={model}"]).reward.gate == gate
    chosen = compose_config(["+recipe=cdpo", f"model={model}", "reward.gate=uniform"])
    assert chosen.reward.gate == "uniform"
    assert signature(HybridReward.fit).parameters["gate"].default == "static_softmax"
