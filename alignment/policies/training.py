"""Trains one policy and saves it in the form that from_pretrained loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from datasets import Dataset
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer
from trl import SFTConfig

from alignment.data.cells import BadRow
from alignment.data.columns import readable
from alignment.models.load import Loaded, load_trainable, saved_dtype
from alignment.models.packing import Item, Packing
from alignment.models.source import ModelSource
from alignment.policies.systems import SYSTEMS, Candidate
from alignment.runs.ranks import Ranks
from alignment.trainers.arguments import close_trackers, log_to, lora_config, quantized_on, shared_arguments
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.finishing import release, save_whole
from alignment.trainers.progress import ProgressBar
from alignment.trainers.recalibration import FEWEST
from alignment.trainers.reference import TOKENS
from alignment.trainers.resuming import train
from alignment.trainers.sft import PackedSFTTrainer
from alignment.trainers.side_by_side import Progress
from alignment.types import Diverged, UserError


@dataclass(frozen=True)
class Training:
    """What all candidates of a stage share. settings: conf/policy; confidence: conf/confidence; reward: a folder;
    calibration: pairs that a calibrated confidence is held against (pairs_apart.py), if there are some."""

    source: ModelSource
    settings: Mapping[str, Any]
    confidence: Mapping[str, Any]
    lora: Mapping[str, Any]
    packing: Packing
    reward: Path | None
    calibration: Sequence[dict]
    tracking: Sequence[str]
    logs: Path
    ranks: Ranks


def train_policy(
    training: Training, candidate: Candidate, pairs: list[dict], folder: Path, progress: ProgressBar | Progress
) -> dict[str, Any]:
    """Trains a candidate into folder/policy; its checkpoints stay until the caller removes them.

    Returns the number of pairs, those left out, the steps, what they logged, and whether it diverged: its weights
    aren't finite, or it was given up since what it computes isn't; then there is no policy.
    """
    loaded = load_trainable(training.source, quantized_on(training.lora))
    if training.tracking:
        log_to(training.logs, candidate.name.replace("/", "-"))
    rows, left_out = tokenize(loaded, pairs, *loaded.token_limit("policy.max_length", training.settings["max_length"]))
    if not rows:
        first = "there is none" if not left_out else f"{left_out[0][0]}: {left_out[0][1]}"
        raise UserError(candidate.name, f"no pair can be learned from: {first}", "raise the limit, or give other pairs")
    make = _fine_tuner if SYSTEMS[candidate.system].stage == "train_sft" else _preference_trainer
    trainer = make(training, candidate, loaded, rows, folder)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress)
    given_up = False
    try:
        train(trainer, candidate.name, training.ranks)
    except Diverged as error:
        training.ranks.say(f"  {candidate.name} diverged: {error}")
        given_up = True
    finally:
        progress.close()
        close_trackers(training.tracking)
    history = [
        {name: value if isfinite(value) else None for name, value in entry.items()}  # JSON can't write infinities
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    if not given_up:
        _save(training, trainer, loaded, folder)
    steps = trainer.state.global_step
    release(trainer)
    training.ranks.wait()
    diverged = given_up or training.ranks.from_main(lambda: not _finite(folder / "policy"))
    return {"pairs": len(rows), "left_out": left_out, "steps": steps, "history": history, "diverged": diverged}


def _save(training: Training, trainer: Trainer, loaded: Loaded, folder: Path) -> None:
    """Writes the policy, and the reward that followed it."""
    source, dtype = training.source, saved_dtype(training.source, training.settings["save_dtype"])
    save_whole(trainer, training.lora, AutoModelForCausalLM, folder / "policy", training.ranks, source.revision, dtype)
    if training.ranks.main:
        loaded.tokenizer.save_pretrained(folder / "policy")
    if isinstance(trainer, ConfidenceDPOTrainer) and trainer.live is not None and training.ranks.main:
        trainer.live.reward.save(folder / "reward")


def checkpoints(folder: Path) -> Path:
    """The folder of a candidate's checkpoints, beside its own: they are removed when that is published."""
    return folder.with_name(f"{folder.name}.checkpoints")


def _finite(folder: Path) -> bool:
    """Whether all weights of a saved model are finite numbers."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            if not all(weights.get_tensor(name).isfinite().all() for name in weights.keys()):  # noqa: SIM118 (a file)
                return False
    return True


def tokenize(loaded: Loaded, pairs: list[dict], limit: int, why: str) -> tuple[list[dict], list[tuple[str, str]]]:
    """The pairs as token ids, and the id of each pair that is left out, with the reason.

    They are rendered here rather than by TRL, so that text in the data can't forge roles or special tokens. A pair is
    left out if the template refuses it or an answer doesn't fit, since a cut answer has no end to read.
    """
    left_out: list[tuple[str, str]] = []

    def columns(pair: dict) -> dict:
        answers = loaded.format.render(pair["prompt"], [pair["chosen"], pair["rejected"]])
        if max(len(answer.ids) for answer in answers) > limit:
            raise BadRow(f"one of its texts has more tokens than {why}")
        item, confidence = Item.of(answers), pair.get("confidence")
        chosen, rejected = item.answers
        return {"prompt_ids": item.prompt, "chosen_ids": chosen, "rejected_ids": rejected, "confidence": confidence}

    read = readable(pairs, columns, lambda pair, reason: left_out.append((pair["id"], reason)))
    return [row for _, row in read], left_out


def _preference_trainer(
    training: Training, candidate: Candidate, loaded: Loaded, rows: list[dict], folder: Path
) -> ConfidenceDPOTrainer:
    system, confidence = SYSTEMS[candidate.system], training.confidence
    if system.confidence == "live":
        source = {name: value for name, value in confidence.items() if name not in ("name", "source")}
        source["confidence"] = confidence["source"]
    else:
        source = {"confidence": "fixed", "fixed_confidence": system.confidence}
        source |= {"objective": system.objective, "flipped": system.flipped}
    columns = [name for name in rows[0] if name != "confidence" or source["confidence"] == "column"]
    config = ConfidenceDPOConfig(
        beta=candidate.beta,
        precompute_ref_log_probs=training.settings["precompute_ref_log_probs"],
        without_router_loss=training.settings["without_router_loss"],
        packing=training.packing.name,
        packing_max_tokens=training.packing.max_tokens,
        **source,
        **_shared(training, candidate, folder),
    )
    return ConfidenceDPOTrainer(
        model=loaded.model,
        args=config,
        train_dataset=Dataset.from_list([{name: row[name] for name in columns} for row in rows]),
        reward=training.reward if config.live else None,
        calibration_dataset=_calibration(training, loaded) if config.confidence == "calibrated" else None,
        revision=training.source.revision,
        processing_class=loaded.tokenizer,
        peft_config=lora_config(training.lora, "CAUSAL_LM", None),
    )


def _calibration(training: Training, loaded: Loaded) -> Dataset | None:
    if not training.calibration:
        return None
    limit = loaded.token_limit("policy.max_length", training.settings["max_length"])
    rows, _ = tokenize(loaded, list(training.calibration), *limit)
    return Dataset.from_list([{name: row[name] for name in TOKENS} for row in rows]) if len(rows) >= FEWEST else None


def _fine_tuner(
    training: Training, candidate: Candidate, loaded: Loaded, rows: list[dict], folder: Path
) -> PackedSFTTrainer:
    columns = [
        {
            "input_ids": row["prompt_ids"] + row["chosen_ids"],
            "labels": [-100] * len(row["prompt_ids"]) + row["chosen_ids"],
        }
        for row in rows
    ]
    return PackedSFTTrainer(
        model=loaded.model,
        args=SFTConfig(**_shared(training, candidate, folder)),
        train_dataset=Dataset.from_list(columns),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(training.lora, "CAUSAL_LM", None),
        packing=training.packing,
        without_router_loss=training.settings["without_router_loss"],
    )


def _shared(training: Training, candidate: Candidate, folder: Path) -> dict[str, Any]:
    settings = {**training.settings, "learning_rate": candidate.learning_rate}
    return {
        "output_dir": str(checkpoints(folder)),
        "seed": candidate.seed,
        "max_length": settings["max_length"],
        **shared_arguments(settings, "policy", training.ranks.count, training.tracking, candidate.name),
    }
