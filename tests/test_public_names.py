"""`import alignment` is cheap, and its names are there."""

import os
import subprocess
import sys

import pytest


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, alignment; assert not {'torch', 'trl', 'hydra'} & set(sys.modules); assert dir(alignment)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_importing_a_trainer_warns_of_nothing():
    code = "from alignment import ConfidenceDPOTrainer"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout + done.stderr == ""


def test_public_names_resolve():
    import alignment
    from alignment.models.hybrid_reward import HybridReward
    from alignment.trainers.cdpo import ConfidenceDPOTrainer
    from alignment.trainers.cdpo_config import ConfidenceDPOConfig
    from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer

    homes = [ConfidenceDPOConfig, ConfidenceDPOTrainer, HybridReward, MarginRewardConfig, MarginRewardTrainer]
    assert [getattr(alignment, name) for name in alignment.__all__] == homes
    assert set(alignment.__all__) <= set(dir(alignment))
    with pytest.raises(AttributeError, match="no attribute 'RewardTrainer'"):
        _ = alignment.RewardTrainer
