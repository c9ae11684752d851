"""From our trainer settings to TRL's arguments: what the trainers share."""

import os
from collections.abc import Mapping
from math import ceil
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, TrainingArguments

from alignment.models.devices import device, training_dtype
from alignment.models.load import context_of
from alignment.runs.ranks import accelerator, batch_shape, on_cpu
from alignment.trainers.own_data import loading
from alignment.types import UserError

# Our settings that go into TRL's configuration under their own names.
PASSED_ON = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "weight_decay",
    "max_grad_norm", "activation_checkpointing", "logging_steps",
)  # fmt: skip


def shared_arguments(
    trainer: Mapping[str, Any], group: str, ranks: int, tracking: str, run_name: str
) -> dict[str, Any]:
    """Keyword arguments for DPOConfig and RewardConfig alike. group: of conf/, where these settings are."""
    micro_batch, accumulation = batch_shape(trainer["batch_size"], trainer["per_device_batch_size"], ranks, group)
    return {
        **{name: trainer[name] for name in PASSED_ON},
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "use_cpu": on_cpu(),
        "ddp_backend": "gloo" if ranks > 1 and accelerator() is None else None,
        "bf16": training_dtype(trainer["precision"]) == "bfloat16",
        "save_strategy": "steps",
        # what was added up since the last log is in no checkpoint: a resumed run would log other means
        "save_steps": ceil(trainer["save_steps"] / trainer["logging_steps"]) * trainer["logging_steps"],
        "save_total_limit": 2,  # the one before must stay until the new one is sealed
        "report_to": tracking,
        "run_name": run_name,
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "dataloader_pin_memory": False,
    }


def within_context(args: TrainingArguments, model: Any) -> None:
    """No row may be longer than what the model can read: learned positions end there, with an assert of the GPU.

    model: a name, or the model.
    """
    config = AutoConfig.from_pretrained(model, **loading(args)) if isinstance(model, str) else model.config
    context = context_of(config)
    if context is not None and (args.max_length is None or args.max_length > context):
        args.max_length = context


def lora_config(lora: Mapping[str, Any], task: str, modules_to_save: list[str] | None) -> LoraConfig | None:
    """peft's configuration; a new head is trained whole and saved beside the adapters."""
    if lora["name"] == "none":
        return None
    targets = lora["target_modules"]
    return LoraConfig(
        task_type=task,
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=modules_to_save,
    )


def keep_dropout(model: torch.nn.Module) -> None:
    """The adapters' own: TRL switches off every dropout in a model, for the sake of the base model's."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name, dropout in layer.lora_dropout.items():
                if isinstance(dropout, torch.nn.Dropout):  # at 0 there is none
                    dropout.p = model.peft_config[name].lora_dropout


def refuse_adapters(model: torch.nn.Module) -> None:
    """Those that our forward pass would go around."""
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise UserError("peft_config", "the language-model head can't have adapters", "leave it out of target_modules")
    adapters = getattr(model, "peft_config", {}).values()
    if any(getattr(config, "is_prompt_learning", False) for config in adapters):
        raise UserError("peft_config", "learned prompts move the positions that are read", "use LoRA")


def quantized_on(lora: Mapping[str, Any]) -> torch.device | None:
    """The rank's device, where LoRA's base is to be quantized; None where it isn't."""
    return device() if lora["name"] == "quantized" else None


def adapters_in_float32(model: torch.nn.Module) -> None:
    """On a base in 4 bits TRL has what is learned in bfloat16, where small steps are rounded away, and which a head in
    float32 arithmetic can't take. Autocast computes in bfloat16 all the same."""
    if getattr(model, "is_loaded_in_4bit", False):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def log_to(folder: Path, run_name: str) -> None:
    """Where trackers write, by the environment variables each of them reads. W&B is offline unless it has a key."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard" / run_name)
    os.environ["WANDB_DIR"] = os.environ["TRACKIO_DIR"] = str(folder)
    os.environ.setdefault("WANDB_PROJECT", "repalign")
    if not _has_wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    if os.environ.get("WANDB_MODE") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")
    folder.mkdir(parents=True, exist_ok=True)


def _has_wandb_key() -> bool:
    """In the environment, or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, NetrcParseError):
        return False


def close_trackers(tracking: str) -> None:
    """Ends the tracked run, so that the next training gets one of its own."""
    if tracking == "wandb":
        import wandb

        wandb.finish()
