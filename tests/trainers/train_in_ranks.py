"""Confidence DPO in the ranks that are there: python tests/trainers/train_in_ranks.py FOLDER POLICY SETTINGS

Run by test_cdpo_in_ranks.py under torchrun and accelerate. SETTINGS are those of several trainings by name, as json:
one after the other they are trained, as a recipe's are, and FOLDER/<name>.json has losses, the parameters of the
reward and an evaluation.
"""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from alignment.models.hybrid_reward import HybridReward
from alignment.runs.ranks import on_cpu
from alignment.trainers.finishing import release
from tests.conftest import byte_tokenizer
from tests.trainers.test_cdpo import CPU, ConfidenceDPOConfig, ConfidenceDPOTrainer, Steps, pairs


def train(out: Path, policy: Path, settings: dict) -> None:
    torch.manual_seed(0)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    reward, count = settings.pop("reward", None), settings.pop("pairs", 52)
    arguments = ConfidenceDPOConfig(
        output_dir=str(out.with_suffix(".checkpoints")),
        **{
            **CPU, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "refit_learning_rate": 1e-3,
            "num_train_epochs": 3, "beta": 0.3, "use_cpu": on_cpu(), "ddp_backend": "gloo" if several else None,
            **settings,
        },
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(policy, attn_implementation="sdpa", dtype=torch.float32)
    steps = Steps()
    trainer = ConfidenceDPOTrainer(
        model=model, args=arguments, train_dataset=pairs(count), eval_dataset=pairs(11, seed=5),
        processing_class=byte_tokenizer("chatml"), callbacks=[steps],
        reward=None if reward is None else HybridReward.load(reward), calibration_dataset=pairs(45, seed=9),
    )  # fmt: skip
    trainer.train()
    evaluated = trainer.evaluate()
    if trainer.accelerator.is_main_process:
        head = torch.cat([value.detach().flatten() for value in trainer.live.reward.parameters()])
        found = {name: [logs.get(name) for logs in steps.logs] for name in steps.logs[0]}
        out.write_text(
            json.dumps(
                {"logs": found, "head": head.tolist(), "evaluated": evaluated} | {"packed": trainer.layout.packed}
            )
        )
    release(trainer)


if __name__ == "__main__":
    for name, settings in json.loads(sys.argv[3]).items():
        train(Path(sys.argv[1]) / f"{name}.json", Path(sys.argv[2]), settings)
