"""Twenty steps of each trainer on the embedded world, as JSON: python -m tests.trainers.trajectory <file>

Run with OLDEST in the environment: one thread and the instructions that every processor has, so that any machine takes
the same steps.
"""

import copy
import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer
from trl import SFTConfig

from alignment.data.chat import chat_format
from alignment.data.world_pairs import world_pairs
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import load_reward_base
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.sft import PackedSFTTrainer
from alignment.world.identity import LANGUAGE_MODEL
from alignment.world.preferences import Drawing

OLDEST = {
    "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41",
}  # fmt: skip
PAIRS = 160
SETTINGS = {
    "per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_steps": 20, "logging_steps": 1, "warmup_steps": 4,
    "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3, "bf16": False, "use_cpu": True,
    "dataloader_pin_memory": False, "max_length": 256,
}  # fmt: skip


def logged(trainer: Trainer) -> list[dict[str, float]]:
    """What each step logged."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: float(value) for name, value in sorted(entry.items())} for entry in steps]


def trajectories(folder: Path) -> dict[str, list[dict[str, float]]]:
    pairs = world_pairs(PAIRS, 10, Drawing(0, noise=0.25))[0].rows
    found = {"reward model with margins": of_reward_model(pairs, folder)}
    for confidence in ("calibrated", "fixed"):  # the others differ in a formula that is tested by hand
        found[f"DPO, confidence {confidence}"] = of_policy(pairs, confidence, folder)
    found["fine-tuning"] = of_fine_tuning(pairs, folder)
    return found


def of_reward_model(pairs: list[dict], folder: Path) -> list[dict[str, float]]:
    loaded = load_reward_base(source_at("world"), 0)
    columns: dict[str, list] = {"chosen_ids": [], "rejected_ids": []}
    for row in pairs:
        texts = loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]])
        for side, text in zip(columns, texts, strict=True):
            columns[side].append(text.ids)
    columns["margin"] = [row["rejected_severity"] - row["chosen_severity"] for row in pairs]
    config = MarginRewardConfig(output_dir=str(folder), center_rewards_coefficient=0.01, **SETTINGS)
    return logged(
        MarginRewardTrainer(loaded.model, config, Dataset.from_dict(columns), processing_class=loaded.tokenizer)
    )


def of_policy(pairs: list[dict], confidence: str, folder: Path) -> list[dict[str, float]]:
    """With a reward that is re-fitted at each step, or with confidence 0.8 for every pair."""
    more = {"fixed_confidence": 0.8} if confidence == "fixed" else {}
    config = ConfidenceDPOConfig(output_dir=str(folder), confidence=confidence, beta=0.2, **more, **SETTINGS)
    return logged(
        ConfidenceDPOTrainer(
            str(LANGUAGE_MODEL), config, Dataset.from_list(_rows(pairs)),
            reward=copy.deepcopy(a_reward()) if config.live else None,
            processing_class=AutoTokenizer.from_pretrained(LANGUAGE_MODEL),
        )
    )  # fmt: skip


@cache
def a_reward() -> HybridReward:
    """Fitted on states made up, of the policy's layers and width."""
    random = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(60, 4, 96, generator=random) + shift for shift in (0.2, -0.2))
    return HybridReward.fit(chosen, rejected, gate="sigmoid_scores", seed=0)


def of_fine_tuning(pairs: list[dict], folder: Path) -> list[dict[str, float]]:
    columns = [
        {
            "input_ids": row["prompt_ids"] + row["chosen_ids"],
            "labels": [-100] * len(row["prompt_ids"]) + row["chosen_ids"],
        }
        for row in _rows(pairs)
    ]
    return logged(
        PackedSFTTrainer(
            AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL), SFTConfig(output_dir=str(folder), **SETTINGS),
            Packing(), train_dataset=Dataset.from_list(columns),
            processing_class=AutoTokenizer.from_pretrained(LANGUAGE_MODEL),
        )
    )  # fmt: skip


def _rows(pairs: list[dict]) -> list[dict]:
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_MODEL)
    format = chat_format(tokenizer)
    rows = []
    for row in pairs:
        chosen, rejected = format.render(row["prompt"], [row["chosen"], row["rejected"]])
        start = chosen.prompt_length
        ids = {"prompt": chosen.ids[:start], "chosen": chosen.ids[start:], "rejected": rejected.ids[start:]}
        rows.append({f"{name}_ids": list(map(int, value)) for name, value in ids.items()})
    return rows


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        Path(sys.argv[1]).write_text(json.dumps(trajectories(Path(folder)), indent=1) + "\n")
