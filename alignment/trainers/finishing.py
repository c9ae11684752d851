"""The end of a training: whole weights on disk, wherever they were, and a process that the next stage can use."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from alignment.runs.ranks import Ranks


def save_whole(
    trainer: Trainer, lora: Mapping[str, Any], kind: type, folder: Path, ranks: Ranks, revision: str | None
) -> None:
    """Writes the model as from_pretrained loads it: gathered from the ranks, LoRA's adapters merged, no pickle.

    The adapters themselves stay beside it, in the folder `adapters`.
    revision: the one that the trained model was loaded from, for LoRA's base.
    """
    if lora["name"] == "none":
        trainer.save_model(str(folder))
    else:
        adapters = adapters_beside(folder)
        trainer.save_model(str(adapters))
        if ranks.main:
            _merge(trainer, adapters, kind, folder, revision)
            (adapters / "training_args.bin").unlink(missing_ok=True)
    if ranks.main:
        (folder / "training_args.bin").unlink(missing_ok=True)
    ranks.wait()


def adapters_beside(folder: Path) -> Path:
    """Where LoRA's adapters lie that were merged into the model in `folder`."""
    return folder.with_name("adapters")


def _merge(trainer: Trainer, adapters: Path, kind: type, folder: Path, revision: str | None) -> None:
    """Into a fresh copy of the model: the trained one may be split over the ranks, or in 4 bits."""
    config = copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model).config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    unset_hf_deepspeed_config()  # or from_pretrained would split this copy too
    base: PreTrainedModel = kind.from_pretrained(
        config._name_or_path, revision=revision, config=config, dtype=torch.float32
    )
    PeftModel.from_pretrained(base, adapters).merge_and_unload().save_pretrained(folder)


def weights_are_split(trainer: Trainer) -> bool:
    """Does no rank hold a whole model (ZeRO-3, FSDP)?"""
    plugin = trainer.args.deepspeed_plugin
    return trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)


def release(trainer: Trainer) -> None:
    """Frees a trainer's memory, and lets the next stage of this process group have settings of its own.

    accelerate and transformers keep the first DeepSpeed configuration for the whole process: inference stages would
    load their models in pieces, and the next trainer would find the batch sizes of this one.
    """
    deepspeed = trainer.accelerator.distributed_type == DistributedType.DEEPSPEED
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.ref_model = None
    trainer.deepspeed = trainer.optimizer = trainer.lr_scheduler = None
    handler = trainer.callback_handler
    handler.model = handler.optimizer = handler.lr_scheduler = None
    if deepspeed:
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state()
