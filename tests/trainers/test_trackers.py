"""Training curves go to several trackers at once, in a project of our name."""

import os

import pytest
import yaml
from transformers.integrations import get_reporting_integration_callbacks
from trl import RewardConfig

from alignment.settings.compose import compose_config
from alignment.trainers.arguments import log_to, shared_arguments
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(("given", "kept"), [
    (None, []), ("run.tracking=tensorboard", ["tensorboard"]), ("run.tracking=[]", []),
    ("run.tracking=[tensorboard,wandb]", ["tensorboard", "wandb"]),
])  # fmt: skip
def test_none_one_or_several(given, kept, monkeypatch):
    monkeypatch.setattr("alignment.settings.rules.find_spec", lambda name: name)
    assert list(compose_config(["+recipe=cdpo", *([given] if given else [])]).run.tracking) == kept


def test_all_of_them_report_and_the_project_is_ours(tmp_path, monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_MODE", "WANDB_SILENT", "WANDB_DIR", "TRACKIO_DIR", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.setenv(name, "")  # put back after the test
        monkeypatch.delenv(name)
    trainer = yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text())
    made = RewardConfig(
        output_dir=str(tmp_path), **shared_arguments(trainer, "trainer", 1, ["tensorboard", "wandb"], "a")
    )
    assert made.report_to == ["tensorboard", "wandb"] and made.project == "repalign"
    names = [callback.__name__ for callback in get_reporting_integration_callbacks(made.report_to)]
    assert names == ["TensorBoardCallback", "WandbCallback"]
    log_to(tmp_path / "logs", "a")
    assert os.environ["WANDB_PROJECT"] == "repalign"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    log_to(tmp_path / "logs", "a")
    assert os.environ["WANDB_PROJECT"] == "mine", "a name that was given stays"
