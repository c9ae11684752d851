"""Log-probabilities under the reference, computed once before training: an artefact of ours.

TRL's own cache is a file of the data set's, which in-memory data sets don't have on every rank. Here the values are
gathered on all ranks as they are computed, and the main process keeps them in the output folder for the next start.
"""

import hashlib
import json
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel
from trl.models import prepare_deepspeed

from alignment.runs.artifacts import atomic_file


def reference_of(model: PreTrainedModel, revision: str | None) -> PreTrainedModel:
    """The model as it was loaded, on one device. revision: the hub's that it was loaded from."""
    config = model.config
    return type(model).from_pretrained(
        config._name_or_path, revision=revision, dtype=model.dtype, attn_implementation=config._attn_implementation
    )


class ReferenceLogProbs:
    """Mixin for a DPOTrainer: its `_precompute_ref_logps`."""

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        path = Path(self.args.output_dir) / "reference_log_probs" / f"{self._reference_key(dataset)}.safetensors"
        found = [load_file(path) if self.accelerator.is_main_process and path.is_file() else None]
        broadcast_object_list(found)
        values = found[0]
        if values is None:
            values = self._reference_values(dataset, name, batch_size)
            if self.accelerator.is_main_process:
                with atomic_file(path) as file:
                    save_file(values, file)
        for side, column in values.items():
            dataset = dataset.add_column(side, column.tolist())
        return dataset

    def _reference_key(self, dataset: Dataset) -> str:
        """Of the model and how it computes, the token ids (and so the template), and what is cut off them.

        It is the main process's, given to all.
        """
        arithmetic = [self.args.bf16, self.args.fp16, str(self.model.dtype), self.model.config._attn_implementation]
        settings = [self._precompute_model_hash, self.args.max_length, self.layout.packed, *arithmetic]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for row in dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]):
            digest.update(json.dumps([row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]]).encode())
        key = [digest.hexdigest()]
        broadcast_object_list(key)
        return key[0]

    def _reference_values(self, dataset: Dataset, name: str, batch_size: int) -> dict[str, torch.Tensor]:
        model = self.ref_model or self.model
        if self.ref_model is None and self.is_deepspeed_enabled:  # not prepared yet: parameters partitioned, on the CPU
            if self._precompute_engine is None:
                self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)
            model = self._precompute_engine
        columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
        loader = DataLoader(dataset.select_columns(columns), batch_size, collate_fn=self.data_collator)
        found: list[torch.Tensor] = []
        bar = tqdm(
            self.accelerator.prepare(loader), f"reference log-probs, {name}", leave=False,
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        for batch in bar:
            both = torch.stack(self.compute_ref_log_probs(model, batch), dim=1)
            found.append(self.accelerator.gather_for_metrics(both).cpu())
        chosen, rejected = torch.cat(found).unbind(dim=1)
        return {"ref_chosen_logps": chosen.contiguous(), "ref_rejected_logps": rejected.contiguous()}
