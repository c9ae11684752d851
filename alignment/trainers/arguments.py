"""From our settings to the arguments of TRL, peft and the trackers: what all trainers share."""

import copy
import os
from collections.abc import Mapping, Sequence
from math import ceil
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, TrainingArguments

from alignment.models.devices import copy_batches_beside, device, training_dtype
from alignment.models.load import context_of
from alignment.runs.ranks import accelerator, batch_shape, on_cpu
from alignment.trainers.one_device import on_one_device
from alignment.trainers.own_data import model_location
from alignment.types import UserError

PROJECT = "repalign"  # of a tracker, unless the environment names another
# Our settings that go into TRL's configuration under the same names.
PASSED_ON = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "weight_decay",
    "max_grad_norm", "activation_checkpointing", "logging_steps",
)  # fmt: skip


def shared_arguments(
    settings: Mapping[str, Any], group: str, ranks: int, tracking: Sequence[str], run_name: str
) -> dict[str, Any]:
    """Keyword arguments for the configuration of any of TRL's trainers. group: of conf/, where the settings are."""
    micro_batch, accumulation = batch_shape(settings["batch_size"], settings["per_device_batch_size"], ranks, group)
    return {
        **{name: settings[name] for name in PASSED_ON},
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "use_cpu": on_cpu(),
        "ddp_backend": "gloo" if ranks > 1 and accelerator() is None else None,
        "bf16": training_dtype(settings["precision"]) == "bfloat16",
        "save_strategy": "steps",
        # what was added up since the last log is in no checkpoint: a resumed run would log other means
        "save_steps": ceil(settings["save_steps"] / settings["logging_steps"]) * settings["logging_steps"],
        "save_total_limit": 2,  # a checkpoint must stay until the next one is sealed
        "report_to": list(tracking),
        "project": PROJECT,
        "run_name": run_name,
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "dataloader_pin_memory": False,  # there is nothing to pin memory for, until there is a device (settled)
    }


def settled(args: TrainingArguments, model: Any) -> TrainingArguments:
    """A copy of a trainer's arguments for this process and model (a name, or the model itself).

    max_length is limited to the model's context: beyond it a model with learned positions crashes on a GPU. In a step
    the host isn't to wait for the device: batches are copied beside what it computes, and nobody looks whether the loss
    of every micro-batch is finite (a logged one that isn't is logged as it is).
    """
    args = copy.copy(args)  # the caller's stay as they are
    args.logging_nan_inf_filter = False
    copy_batches_beside(args)
    on_one_device(args, model)
    config = AutoConfig.from_pretrained(model, **model_location(args)) if isinstance(model, str) else model.config
    context = context_of(config)
    if context is not None and (args.max_length is None or args.max_length > context):
        args.max_length = context
    return args


def lora_config(lora: Mapping[str, Any], task: str, modules_to_save: list[str] | None) -> LoraConfig | None:
    """peft's configuration. modules_to_save: a new head, trained whole and saved with the adapters."""
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


def restore_adapters(model: torch.nn.Module) -> None:
    """Takes back what TRL does to adapters.

    On a base in 4 bits it puts what is trained into bfloat16, which rounds small steps away, and which a head in
    float32 arithmetic doesn't take; autocast computes in bfloat16 all the same. And it switches off every dropout.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name, dropout in layer.lora_dropout.items():
                if isinstance(dropout, torch.nn.Dropout):  # at 0 there is none
                    dropout.p = model.peft_config[name].lora_dropout


def refuse_adapters(model: torch.nn.Module) -> None:
    """UserError for adapters that our forward pass would leave out."""
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise UserError("peft_config", "the language-model head can't have adapters", "leave it out of target_modules")
    adapters = getattr(model, "peft_config", {}).values()
    if any(getattr(config, "is_prompt_learning", False) for config in adapters):
        raise UserError("peft_config", "learned prompts move the positions that are read", "use LoRA")


def quantized_on(lora: Mapping[str, Any]) -> torch.device | None:
    """This rank's device if LoRA's base model is to be quantized on it; else None."""
    return device() if lora["name"] == "quantized" else None


def log_to(folder: Path, run_name: str) -> None:
    """Sets where trackers write, by their environment variables. W&B is offline unless it has a key."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard" / run_name)
    os.environ["WANDB_DIR"] = os.environ["TRACKIO_DIR"] = str(folder)
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    if not _has_wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
    if os.environ.get("WANDB_MODE") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")
    folder.mkdir(parents=True, exist_ok=True)


def _has_wandb_key() -> bool:
    """Is there a key in the environment, or where `wandb login` puts it?"""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, NetrcParseError):
        return False


def close_trackers(tracking: Sequence[str]) -> None:
    """Ends the tracked run, so that the next training gets one of its own."""
    if "wandb" in tracking:
        import wandb

        wandb.finish()
