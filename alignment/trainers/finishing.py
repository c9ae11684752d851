"""The end of a training: whole weights on disk, wherever they were, and a process that the next stage can use."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from alignment.data.chat import Rendered
from alignment.models.model_card import CARD
from alignment.models.parity import TrainedScores, trained_scores
from alignment.runs.ranks import Ranks
from alignment.trainers.saved_weights import round_saved, round_weights, tied_weights


def save_whole(
    trainer: Trainer,
    lora: Mapping[str, Any],
    kind: type,
    folder: Path,
    ranks: Ranks,
    revision: str | None,
    dtype: torch.dtype,
) -> None:
    """Writes the model as from_pretrained loads it: gathered from the ranks, LoRA's adapters merged, no pickle.

    The adapters themselves are written into a folder of it. revision: of LoRA's base model. dtype: of the weights.
    """
    trained = folder if lora["name"] == "none" else adapters_of(folder)
    trainer.save_model(str(trained))
    if ranks.main:
        (trained / "training_args.bin").unlink(missing_ok=True)
        tied = tied_weights(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
        if trained != folder:
            (trained / CARD).unlink(missing_ok=True)  # peft's: a form that nobody filled in, with a local path
            tied = tied_weights(_merge(trainer, trained, kind, folder, revision))
        round_saved(folder, dtype, tied)
    ranks.wait()


def save_own(model: PreTrainedModel, folder: Path, ranks: Ranks, dtype: torch.dtype) -> None:
    """Writes a model of which a part was trained that shares its weights."""
    if ranks.main:
        model.save_pretrained(folder)
        round_saved(folder, dtype, tied_weights(model))
    ranks.wait()


def scores_in_training(
    model: PreTrainedModel, lora: Mapping[str, Any], dtype: torch.dtype, rows: Sequence[Rendered], pad_id: int
) -> TrainedScores:
    """What the trained model says in float32 (unless its weights are in 4 bits), rounded as it is saved.

    Under adapters they are rounded only when these are merged, so that the scores of the saved model are others.
    """
    rounded = any(weight.is_floating_point() and weight.dtype != torch.float32 for weight in model.parameters())
    if lora["name"] != "quantized":
        model.float()  # DeepSpeed's are in the training's precision
    whole = lora["name"] == "none"
    model.eval()
    unrounded = trained_scores(model, rows, pad_id) if whole and dtype != torch.float32 else None
    if whole:
        round_weights(model, dtype)
    exact = whole or (not rounded and dtype == torch.float32)
    merged_rounded = not whole and dtype != torch.float32
    return TrainedScores(trained_scores(model, rows, pad_id), exact, merged_rounded, unrounded)


def adapters_of(folder: Path) -> Path:
    """Where the adapters lie that were merged into the model in `folder`."""
    return folder / "adapters"


def _merge(trainer: Trainer, adapters: Path, kind: type, folder: Path, revision: str | None) -> PreTrainedModel:
    """Merges the adapters into a fresh copy of the model: the trained one may be split over ranks, or in 4 bits."""
    config = copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model).config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    unset_hf_deepspeed_config()  # or from_pretrained would split this copy too
    base: PreTrainedModel = kind.from_pretrained(
        config._name_or_path, revision=revision, config=config, dtype=torch.float32
    )
    merged = PeftModel.from_pretrained(base, adapters).merge_and_unload()
    merged.save_pretrained(folder)
    return merged


def weights_are_split(trainer: Trainer) -> bool:
    """Does no rank hold a whole model (ZeRO-3, FSDP)?"""
    plugin = trainer.args.deepspeed_plugin
    return trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)


def release(trainer: Trainer) -> None:
    """Frees a trainer's memory, and lets the next stage of this process group have its own settings.

    accelerate and transformers keep the first DeepSpeed configuration for the whole process: inference stages would
    load their models in pieces, and the next trainer would find the batch sizes of this one.
    """
    deepspeed = trainer.accelerator.distributed_type == DistributedType.DEEPSPEED
    trainer.accelerator.free_memory()
    vars(trainer).clear()  # models, optimizer and engine, which callers may still hold with the trainer
    if deepspeed:
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state()
