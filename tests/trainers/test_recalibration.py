"""alpha follows the reward: by hand, in a training, over ranks, and through a checkpoint."""

from math import exp, log

import pytest
import torch

from alignment.trainers import kept_calibrated, recalibration
from alignment.trainers.recalibration import Recalibration
from alignment.types import StageFailed, UserError
from tests.trainers.test_cdpo import a_reward, folder, new_trainer, pairs, train  # noqa: F401 (a fixture)
from tests.trainers.test_pair_confidence import first_number


def states(gaps: list[float]) -> torch.Tensor:
    """Pairs of which `first_number` says these gaps."""
    chosen = torch.tensor([[[gap, 5.0]] for gap in gaps])
    return torch.stack([chosen, torch.tensor([0.0, 5.0]).expand_as(chosen)], dim=1)


# Three of four pairs are as labelled: the best alpha is log 3 over the gap's size.
ONES, TWOS = [1.0, 1.0, 1.0, -1.0], [2.0, 2.0, 2.0, -2.0]


def test_alpha_halves_where_gaps_double():
    """It is the one the reward came with that halves, not the one of so few pairs."""
    reward, kept = first_number(alpha=0.8), Recalibration()
    first = kept.read(reward, states(ONES))
    assert reward.alpha == 0.8 and kept.factor == pytest.approx(0.8 / log(3))
    assert first == {"calibration_error": pytest.approx(0.75 - 1 / (1 + exp(-0.8)))}
    second = kept.read(reward, states(TWOS))
    assert reward.alpha == pytest.approx(0.4)
    assert second["calibration_error"] == pytest.approx(1 / (1 + exp(-1.6)) - 0.75), "of the alpha there was until now"
    assert kept.read(reward, states(TWOS))["calibration_error"] == pytest.approx(0.75 - 1 / (1 + exp(-0.8)))


def test_alpha_falls_where_fewer_pairs_are_as_labelled_though_gaps_are_as_they_were():
    """From three of four to three of five: log 3 to log(3 / 2)."""
    reward, kept = first_number(alpha=0.8), Recalibration()
    kept.read(reward, states(ONES))
    kept.read(reward, states([*ONES, -1.0]))
    assert reward.alpha == pytest.approx(0.8 * log(1.5) / log(3))
    kept.read(reward, states([-gap for gap in ONES]))
    assert reward.alpha == 0.0


def test_pairs_that_say_nothing_of_alpha_leave_it():
    reward, kept = first_number(alpha=0.8), Recalibration()
    for gaps in ([-gap for gap in ONES], ONES):
        kept.read(reward, states(gaps))
        assert reward.alpha == 0.8 and kept.factor == 0.0


def test_it_goes_on_where_it_was_saved(tmp_path):
    reward, kept, again = first_number(alpha=0.8), Recalibration(), Recalibration()
    kept.read(reward, states(ONES))
    with pytest.raises(StageFailed, match=f"it holds no {recalibration.FILE}"):
        again.load(tmp_path)
    kept.save(tmp_path)
    again.load(tmp_path)
    again.read(reward, states(TWOS))
    assert reward.alpha == pytest.approx(0.4)


# ---- in a training --------------------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(kept_calibrated, "EVERY", 2)


SETTINGS = {"max_steps": 5, "learning_rate": 1e-3, "refit_learning_rate": 0.1}


def logged(steps, name: str) -> list[float]:
    return [logs[name] for logs in steps.logs if name in logs]


def test_alpha_is_read_at_its_steps_and_logged(folder, tmp_path, soon):  # noqa: F811
    """Before steps 1, 3 and 5; a reward that learns this fast needs another alpha."""
    trainer, steps = train(folder, tmp_path, reward=a_reward(), calibration_dataset=pairs(40, seed=7), **SETTINGS)
    assert [("calibration_error" in logs) for logs in steps.logs] == [True, False, True, False, True]
    alphas = steps.of("alpha")
    assert alphas[0] == alphas[1] == a_reward().alpha and alphas[2] == alphas[3]
    assert len({alphas[0], alphas[2], alphas[4]}) == 3 and trainer.live.reward.alpha == alphas[4]
    _, without = train(folder, tmp_path / "without", reward=a_reward(), **SETTINGS)
    assert set(without.of("alpha")) == {alphas[0]} and not logged(without, "calibration_error")


def test_micro_batches_make_no_difference_to_alpha(folder, tmp_path, soon):  # noqa: F811
    found = []
    for cut in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}):
        data = {"calibration_dataset": pairs(35, seed=7)}
        _, steps = train(folder, tmp_path / str(len(found)), reward=a_reward(), **data, **{**SETTINGS, **cut})
        found.append([*steps.of("alpha"), *logged(steps, "calibration_error")])
    assert len(found[0]) == 8 and found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_resuming_is_exact_with_held_out_pairs(folder, tmp_path, soon):  # noqa: F811
    settings = {**SETTINGS, "save_strategy": "steps", "save_steps": 3}
    data = {"calibration_dataset": pairs(40, seed=7)}
    whole, steps = train(folder, tmp_path / "whole", reward=a_reward(), **data, **settings)
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    again, rest = train(folder, tmp_path / "again", reward=a_reward(1), resume=checkpoint, **data, **settings)
    assert rest.of("alpha") == steps.of("alpha")[3:] and rest.of("loss") == steps.of("loss")[3:]
    assert again.live.reward.alpha == whole.live.reward.alpha


def test_held_out_pairs_that_nothing_reads_or_that_are_too_few_are_refused(folder, tmp_path):  # noqa: F811
    few = pairs(40, seed=7)
    with pytest.raises(UserError, match="calibration_dataset: confidence='paper' reads none"):
        new_trainer(folder, tmp_path, reward=a_reward(), confidence="paper", calibration_dataset=few)
    with pytest.raises(UserError, match="calibration_dataset: 20 of its pairs fit into max_length"):
        new_trainer(folder, tmp_path, reward=a_reward(), calibration_dataset=few.select(range(20)))
    trainer, _ = new_trainer(folder, tmp_path, reward=a_reward(), calibration_dataset=pairs(200, seed=7))
    assert len(trainer._calibration) == recalibration.PAIRS
    assert f"α fitted anew every {recalibration.EVERY} steps on 128 held-out pairs" in trainer.confidence.describe()
