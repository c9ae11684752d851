"""What benchmarks.gpu starts in processes of their own: python -m benchmarks.gpu_side part=train side=ours ...

train: one side of confidence DPO at some size, a step a turn. losses: the logged losses of a few steps of a small
model, however it was launched. exactness: log-ratio differences of one batch, packed or padded.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TextIO

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import TrainerCallback as Callback
from trl import DPOConfig

from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from benchmarks import arguments, lengths, models
from benchmarks.operations import TRAINING_LORA_WITH_REFERENCE, TRAINING_WITH_REFERENCE
from benchmarks.training import BOTH, OneStepATurn, TheirDPO, needed
from benchmarks.turns import Turns

DEFAULTS = {
    "part": "train", "side": "ours", "method": "lora", "attention": "sdpa", "dtype": "bfloat16", "packing": "auto",
    "device": "cuda", "size": "{}", "batch": 8, "checkpointing": "no", "steps": 5, "out": "",
}  # fmt: skip
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def main(argv: Sequence[str], asked: TextIO | None = None, said: TextIO | None = None) -> None:
    given = arguments.read(argv, DEFAULTS)
    size = models.Size(**json.loads(given["size"]))
    rows = lengths.pairs(256, size.vocabulary, size.longest)
    with tempfile.TemporaryDirectory() as output:
        if given["part"] == "train":
            train(Turns(asked, said, given["device"]), given, size, rows, Path(output))
        elif given["part"] == "losses":
            losses(given, size, rows, Path(output))
        elif given["part"] == "exactness":
            exactness(given, size, rows, Path(output))
        else:
            arguments.stop(f"part={given['part']}: choose one of train, losses, exactness")


def train(turns: Turns, given: dict, size: models.Size, rows: list[lengths.Pair], output: Path) -> None:
    trainer = build(given, size, rows, output)
    operations = needed("cdpo", size)
    if given["method"] == "lora":  # frozen weights need no gradient: a backward pass costs as much as a forward one
        operations = _of_lora(operations)
    trainer.add_callback(OneStepATurn(turns, trainer, rows, operations))
    told = {name: given[name] for name in ("method", "attention", "dtype", "checkpointing")}
    turns.ready(trainer="ConfidenceDPOTrainer" if given["side"] == "ours" else "trl.DPOTrainer, sigmoid", **told)
    trainer.train()


def losses(given: dict, size: models.Size, rows: list[lengths.Pair], output: Path) -> None:
    """To the file `out`, from the main process."""
    trainer = build(given, size, rows, output, logging_steps=1, learning_rate=1e-3, max_steps=given["steps"])
    recorded = _Losses()
    trainer.add_callback(recorded)
    trainer.train()
    if trainer.accelerator.is_main_process:
        Path(given["out"]).write_text(json.dumps({"losses": recorded.losses, "launched": _launched(trainer)}))


def exactness(given: dict, size: models.Size, rows: list[lengths.Pair], output: Path) -> None:
    """To the file `out`, for every attention of a list with commas, in both precisions, padded and packed.

    The reference has other weights than the policy, or all differences would be 0.
    """
    found = {}
    for attention, dtype, packing in product(given["attention"].split(","), ("float32", "bfloat16"), ("off", "auto")):
        variant = given | {"attention": attention, "dtype": dtype, "packing": packing}
        trainer = build(variant, size, rows, output, reference_seed=1)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(given["batch"])])
        batch = trainer._prepare_inputs(batch)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            judged = trainer.judge(trainer.model.to(trainer.accelerator.device).eval(), batch)
        found[f"{attention}, {dtype}, packing {packing}"] = judged.log_ratio_difference.double().tolist()
    Path(given["out"]).write_text(json.dumps(found))


def build(
    given: dict, size: models.Size, rows: list[lengths.Pair], output: Path, reference_seed: int = 0, **more: Any
) -> ConfidenceDPOTrainer | TheirDPO:
    """Ours with the live reward, or TRL's. LoRA needs no second model as reference, full training does."""
    cpu = given["device"] == "cpu"
    settings = BOTH | {
        "output_dir": str(output), "per_device_train_batch_size": given["batch"], "max_length": size.longest,
        "use_cpu": cpu, "bf16": given["dtype"] == "bfloat16",
        "activation_checkpointing": given["checkpointing"] == "yes", **more,
    }  # fmt: skip
    rest = {
        "model": model(given, size, seed=0), "train_dataset": Dataset.from_list(rows),
        "processing_class": models.tokenizer(size),
    }  # fmt: skip
    if given["method"] == "lora":
        rest["peft_config"] = LoraConfig(**LORA)
    else:
        rest["ref_model"] = model(given, size, seed=reference_seed).requires_grad_(False)
    if given["side"] == "theirs":
        return TheirDPO(args=DPOConfig(**settings), **rest)
    config = ConfidenceDPOConfig(**settings, packing=given["packing"])
    return ConfidenceDPOTrainer(args=config, reward=models.reward(size), **rest)


def model(given: dict, size: models.Size, seed: int) -> PreTrainedModel:
    """Made where it is used: seven billion random numbers are slow to draw on a processor, and to read from a disk."""
    torch.manual_seed(seed)
    with torch.device(given["device"]):
        return AutoModelForCausalLM.from_config(
            models.configuration(size), dtype=DTYPES[given["dtype"]], attn_implementation=given["attention"]
        )


def _of_lora(operations: Callable[[lengths.Pair], int]) -> Callable[[lengths.Pair], int]:
    return lambda pair: operations(pair) * TRAINING_LORA_WITH_REFERENCE // TRAINING_WITH_REFERENCE


class _Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def _launched(trainer: ConfidenceDPOTrainer) -> str:
    """What accelerate made of the launch, so that plain DDP isn't taken for FSDP."""
    return str(trainer.accelerator.distributed_type).rpartition(".")[2]


if __name__ == "__main__":
    main(sys.argv[1:])
