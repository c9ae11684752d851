"""Benchmarks run, on a toy: what they find is no test's business."""

from benchmarks import live_reward


def test_the_cost_of_the_live_reward_is_measured_by_a_step_that_trains(tmp_path, monkeypatch):
    for name, value in {"LAYERS": 2, "WIDTH": 32, "TOKENS": 110, "VOCABULARY": 120, "BATCH": 2}.items():
        monkeypatch.setattr(live_reward, name, value)
    trainer = live_reward._trainer(tmp_path / "live", True)
    policy, reward = next(trainer.model.parameters()).clone(), trainer.live.reward.weight.clone()
    for _ in range(2):
        assert live_reward._one_step(trainer) > 0
    assert not (next(trainer.model.parameters()) == policy).all() and not (trainer.live.reward.weight == reward).all()
    assert live_reward._bytes_held(trainer) > 2 * 2 * 2 * 32 * 4
    assert live_reward._trainer(tmp_path / "fixed", False).live is None
