"""A few steps of confidence DPO on the CPU, in this process or these ranks, and the most memory that they held:
python -m tests.memory.measured_training '{"folder": "model", "pairs": "pairs.json", "batch": 8, ...}'

Prints, on every rank, a line of JSON: bytes above what the libraries took before there was a model.
"""

import json
import os
import sys
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.models.hybrid_reward import HybridReward
from alignment.runs import peak_memory
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig


def main(given: dict) -> None:
    peak_memory.forget_peak()
    baseline = peak_memory.held_bytes()
    with open(given["pairs"]) as file:
        pairs = json.load(file)
    with tempfile.TemporaryDirectory() as output:
        arguments = ConfidenceDPOConfig(
            output_dir=output, per_device_train_batch_size=given["batch"], max_steps=given["steps"],
            gradient_accumulation_steps=given["accumulation"], activation_checkpointing=given["checkpointing"],
            bf16=given["half"], use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, max_length=1024,
            ddp_backend="gloo" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = ConfidenceDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(given["folder"], dtype=torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list(pairs),
            reward=reward(given["layers"], given["width"]),
            processing_class=AutoTokenizer.from_pretrained(given["folder"]),
            peft_config=LoraConfig(r=16, target_modules="all-linear") if given["lora"] else None,
        )
        trainer.train()
    print(json.dumps({"peak": peak_memory.peak_bytes() - baseline, "baseline": baseline}), flush=True)


def reward(layers: int, width: int) -> HybridReward:
    random = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(40, layers, width, generator=random) + shift for shift in (0.1, -0.1))
    return HybridReward.fit(chosen, rejected)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
