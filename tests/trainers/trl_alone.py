"""TRL's own trainers on a tiny policy, and a record of what they call when: what test_trl_contracts.py judges."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

from alignment.trainers.trl_seams import SEAMS
from tests.conftest import byte_tokenizer

CHECKED: set[tuple[str, str]] = set()  # entries of SEAMS that a test vouches for
ROWS = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 2], "rejected_ids": [10, 2]},
    {"prompt_ids": [11], "chosen_ids": [12, 2], "rejected_ids": [13, 14, 15, 2]},
    {"prompt_ids": [16, 17], "chosen_ids": [18, 19, 20, 2], "rejected_ids": [21, 2]},
    {"prompt_ids": [22, 23, 24], "chosen_ids": [25, 2], "rejected_ids": [26, 27, 2]},
    {"prompt_ids": [28, 29], "chosen_ids": [30, 31, 2], "rejected_ids": [32, 33, 2]},
]
QUIET = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "dataloader_pin_memory": False}
PAIRS_IN_STEP = 17  # what the recorded trainer says, so that we see it arrive


def checks(owner: str, *names: str) -> Callable:
    """Marks a test as the contract of entries of SEAMS."""
    unknown = set(names) - set(SEAMS[owner])
    if not names or unknown:
        raise ValueError(f"{owner}: {unknown or 'nothing'} is not in SEAMS")
    CHECKED.update((owner, name) for name in names)
    return lambda test: test


class OnTokens(DPOTrainer):
    """TRL's, for rows of token ids."""

    def _prepare_dataset(self, dataset, *rest):
        return dataset


def policy(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


def new(folder: Path, out: Path, kind: type = OnTokens, rows: list[dict] | None = None, **settings: Any) -> DPOTrainer:
    more = {name: settings.pop(name) for name in ("eval_dataset", "peft_config", "ref_model") if name in settings}
    return kind(
        model=policy(folder), args=DPOConfig(output_dir=str(out), **QUIET, **settings),
        train_dataset=Dataset.from_list(rows or ROWS), processing_class=byte_tokenizer("chatml"), **more,
    )  # fmt: skip


class Event(NamedTuple):
    """A method that was called, the step it was called in, and what it saw."""

    name: str
    step: int
    saw: dict[str, Any]


class Recorded(OnTokens):
    """TRL's, which writes down what is called; everything is passed on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.events: list[Event] = []
        self._inside = 0
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks.insert(0, Called(self))

    def happened(self, name: str, /, **saw: Any) -> None:
        state = getattr(self, "state", None)
        self.events.append(Event(name, state.global_step if state else 0, saw))

    def seen(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    @property
    def model_wrapped(self) -> torch.nn.Module:
        return self._wrapped

    @model_wrapped.setter
    def model_wrapped(self, model: torch.nn.Module) -> None:
        self.happened("model_wrapped")
        self._wrapped = model

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        self.happened("_prepare_dataset", name=dataset_name, initialised=hasattr(self, "accelerator"))
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _precompute_ref_logps(self, dataset, name, batch_size):
        ready = {one: getattr(self, one) for one in ("_precompute_model_hash", "_precompute_engine", "data_collator")}
        self.happened("_precompute_ref_logps", name=name, batch_size=batch_size, rows=len(dataset), **ready)
        for column in ("ref_chosen_logps", "ref_rejected_logps"):
            dataset = dataset.add_column(column, [float(-i) for i in range(len(dataset))])
        return dataset

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        for i, batch in enumerate(batches):
            batch["ours"] = i
        self.happened("get_batch_samples", asked=num_batches, got=len(batches))
        return batches, PAIRS_IN_STEP

    @contextmanager
    def compute_loss_context_manager(self):
        with super().compute_loss_context_manager():
            self._inside += 1
            yield
            self._inside -= 1

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ours, reference = inputs.pop("ours", None), inputs.get("ref_chosen_logps")
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.happened(
            "compute_loss", ours=ours, pairs=num_items_in_batch, training=self.model.training, inside=self._inside,
            accumulation=getattr(self, "current_gradient_accumulation_steps", None), loss=float(loss.detach()),
            return_outputs=return_outputs, reference=reference,
        )  # fmt: skip
        return loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        slopes = all(one.grad is not None for one in self.model.parameters() if one.requires_grad)
        self.happened("training_step", sync=self.accelerator.sync_gradients, loss=float(loss), slopes=slopes)
        return loss

    def log(self, logs, start_time=None):
        self.happened("log", names=set(logs), training=self.model.training)
        super().log(logs, start_time)

    def evaluate(self, *args, **kwargs):
        self.happened("evaluate")
        return super().evaluate(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        self.happened("_load_optimizer_and_scheduler", checkpoint=checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        self.happened("_load_best_model", checkpoint=self.state.best_model_checkpoint)


class Called(TrainerCallback):
    """Of the events that callbacks hear of, those that ours act on."""

    def __init__(self, trainer: Recorded) -> None:
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer.happened("on_train_begin")

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        self._trainer.happened("on_save", files=files)
