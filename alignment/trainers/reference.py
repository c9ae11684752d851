"""The reference model, and its log-probabilities where they are computed once before training.

TRL keeps those in the data set's cache file, which an in-memory data set doesn't have on every rank. Here they are
gathered on all ranks as they are computed, and the main process keeps them in the output folder for the next start.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from trl import DPOTrainer
from trl.models import prepare_deepspeed

from alignment.runs.artifacts import atomic_file
from alignment.runs.bars import bar
from alignment.runs.ranks import Ranks

TOKENS, REFERENCES = ["prompt_ids", "chosen_ids", "rejected_ids"], ("ref_chosen_logps", "ref_rejected_logps")


def reference_of(model: Any, precomputed: bool, peft_config: Any, revision: str | None) -> PreTrainedModel | None:
    """The model loaded once more from where it came from, on one device. revision: its commit on the hub.

    None where TRL provides the reference: by log-probabilities computed before, by switching adapters off, or by
    loading a name twice.
    """
    if not isinstance(model, PreTrainedModel) or peft_config is not None or precomputed:
        return None
    config = model.config
    return type(model).from_pretrained(
        config._name_or_path, revision=revision, dtype=model.dtype, attn_implementation=config._attn_implementation
    )


def with_reference_columns(trainer: DPOTrainer, dataset: Dataset, name: str, batch_size: int) -> Dataset:
    """The data set with the columns REFERENCES. name: of the data set, for the progress bar."""
    ranks = Ranks(trainer.args.process_index, trainer.args.world_size)
    key = ranks.from_main(lambda: _key(trainer, dataset))
    path = Path(trainer.args.output_dir) / "reference_log_probs" / f"{key}.safetensors"
    values = ranks.from_main(lambda: load_file(path) if path.is_file() else None)
    if values is None:
        values = _computed(trainer, dataset, name, batch_size)
        if ranks.main:
            with atomic_file(path) as file:
                save_file(values, file)
    for column, log_probs in values.items():
        dataset = dataset.add_column(column, log_probs.tolist())
    return dataset


def _key(trainer: DPOTrainer, dataset: Dataset) -> str:
    """A hash of the model, how it computes, the token ids (and so the template), and where they are cut."""
    args, model = trainer.args, trainer.model
    arithmetic = [args.bf16, args.fp16, str(model.dtype), model.config._attn_implementation]
    settings = [trainer._precompute_model_hash, args.max_length, trainer.layout.packed, *arithmetic]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for row in dataset.select_columns(TOKENS):
        digest.update(json.dumps([row[name] for name in TOKENS]).encode())
    return digest.hexdigest()


def _computed(trainer: DPOTrainer, dataset: Dataset, name: str, batch_size: int) -> dict[str, Tensor]:
    """The log-probabilities by column, gathered from all ranks."""
    accelerator, model = trainer.accelerator, trainer.ref_model or trainer.model
    if trainer.ref_model is None and trainer.is_deepspeed_enabled:  # its parameters are still split, and on the CPU
        if trainer._precompute_engine is None:
            trainer._precompute_engine = prepare_deepspeed(model, accelerator)
        model = trainer._precompute_engine
    if not trainer.is_fsdp_enabled and trainer.is_deepspeed_enabled == (trainer._precompute_engine is not None):
        trainer.check_rows(trainer._precompute_engine or trainer.model, gradient=False)
    loader = DataLoader(dataset.select_columns(TOKENS), batch_size, collate_fn=trainer.data_collator)
    loader, quiet = accelerator.prepare(loader), not accelerator.is_main_process
    gathered: list[Tensor] = []
    for batch in bar(loader, f"reference log-probs, {name}", len(loader), "batch", disable=quiet):
        both = torch.stack(trainer.compute_ref_log_probs(model, batch), dim=1)
        gathered.append(accelerator.gather_for_metrics(both).cpu())
    return {name: side.contiguous() for name, side in zip(REFERENCES, torch.cat(gathered).unbind(dim=1), strict=True)}
