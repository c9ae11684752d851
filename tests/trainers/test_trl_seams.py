"""Every name we touch in TRL and transformers is still there, under the meaning we rely on."""

import inspect
import re
from dataclasses import fields

import transformers
import trl
import yaml
from trl import RewardConfig

from alignment.config import Trainer
from alignment.trainers.arguments import PASSED_ON, batch_shape, shared_arguments
from alignment.trainers.margin_rm import MarginRewardTrainer
from alignment.trainers.trl_seams import SEAMS
from tests.conftest import REPOSITORY

OURS = {"batch_size", "per_device_batch_size", "precision"}


def test_every_seam_is_there():
    for owner, names in SEAMS.items():
        parents = getattr(trl, owner, None) or getattr(transformers, owner)
        source = "".join(inspect.getsource(cls) for cls in parents.__mro__ if cls.__name__.endswith("Trainer"))
        for name, _ in names:
            assert re.search(rf"\b{name}\b", source), f"{owner}.{name} is gone: see trainers/trl_seams.py"


def test_overrides_take_what_the_parents_give():
    for name in ("compute_loss", "get_batch_samples", "_save_checkpoint"):
        ours = inspect.signature(getattr(MarginRewardTrainer, name))
        theirs = inspect.signature(getattr(trl.RewardTrainer, name))
        assert len(ours.parameters) == len(theirs.parameters), name


def test_trainer_keys_are_trls_but_for_ours():
    """A key of conf/trainer reaches RewardConfig under its own name, or is one of the three documented as ours."""
    known = {field.name for field in fields(RewardConfig)}
    keys = {field.name for field in fields(Trainer)}
    assert keys - OURS <= known
    assert keys == set(yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text()))
    assert keys == OURS | set(PASSED_ON) | {"max_length", "center_rewards_coefficient"}


def test_arguments_carry_every_setting(tmp_path):
    trainer = yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text())
    trainer |= {"batch_size": 12, "per_device_batch_size": 3, "learning_rate": 0.123, "precision": "float32"}
    made = RewardConfig(output_dir=str(tmp_path), **shared_arguments(trainer, 1, "none", "name"))
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (3, 4)
    assert {name: getattr(made, name) for name in PASSED_ON} == {name: trainer[name] for name in PASSED_ON}


def test_batch_shape_keeps_the_step():
    for ranks in (1, 2, 4):
        for per_device in (None, 1, 2, 4, 64):
            micro_batch, accumulation = batch_shape(32, per_device, ranks)
            assert micro_batch * accumulation * ranks == 32
