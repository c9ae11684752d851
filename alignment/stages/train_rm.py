"""Stage train_rm: reward models with and without margins, each loaded back and compared before it counts.

For every seed the models with and without margins start from the same weights and see the same pairs in the same order;
only the margins differ. Then each scores the evaluation pairs it has never seen.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from omegaconf import DictConfig
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PrinterCallback

from alignment.data.chat import Rendered
from alignment.evaluation.pair_scores import SCORE_COLUMNS, as_texts, score_pairs, whole_pairs
from alignment.inputs.pairs import evaluation_pairs, sources
from alignment.maths.margins import compared_margins
from alignment.models.devices import device, free_memory
from alignment.models.load import Loaded, load_reward_base, load_reward_model
from alignment.models.model_card import reward_model_card
from alignment.models.packing import Packing
from alignment.models.parity import TrainedScores, check_parity, save_tokenizer, trained_scores, with_adapters
from alignment.models.scoring import reward_scores
from alignment.models.source import ModelSource, model_source
from alignment.runs import artifacts
from alignment.runs.locks import link_or_copy
from alignment.runs.manifest import Manifest, Rows, damage
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.trainers.arguments import close_trackers, log_to, lora_config, quantized_on, shared_arguments
from alignment.trainers.finishing import adapters_beside, release, save_whole, weights_are_split
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.progress import ProgressBar
from alignment.trainers.resuming import train
from alignment.trainers.side_by_side import Progress, Workers, side_by_side
from alignment.types import StageFailed, UserError
from alignment.world.identity import generator_hash, model_hash

PARITY_PAIRS = 16


@dataclass(frozen=True)
class Wanted:
    """A reward model: which margins it learns from, and its seed."""

    margins: str
    seed: int


@dataclass(frozen=True)
class Job:
    """What all trainings share. folder: each goes there when all of it is done."""

    cfg: DictConfig
    run: RunDir
    pairs: list[dict]
    evaluation: dict[str, list[dict]]
    folder: Path

    def done(self, wanted: Wanted) -> Path:
        return self.folder / self.run.inside(self.run.reward_model(wanted.margins, wanted.seed))


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    job = Job(cfg, run, artifacts.read_rows(run.pairs), _evaluation_pairs(cfg, run), run.finished(out))
    wanted = [Wanted(margins, seed) for seed in cfg.reward_model.seeds for margins in cfg.reward_model.margins]
    if there := sum(job.done(model).exists() for model in wanted):
        ranks.say(f"  {there} of {len(wanted)} models are there from an earlier run")
    missing = ranks.from_main(lambda: [model for model in wanted if damage(job.done(model)) is not None])
    _train(job, missing, ranks)
    scores: list[dict] = []
    training: dict[str, dict] = {}
    for model in wanted:
        name = run.inside(run.reward_model(model.margins, model.seed))
        training[str(name)] = artifacts.read_json(job.done(model) / run.reward_summary.name)
        scores += artifacts.read_rows(job.done(model) / run.reward_scores.name)
        if ranks.main:
            shutil.copytree(job.done(model) / "model", out / name, copy_function=link_or_copy)
    if ranks.main:
        artifacts.write_rows(out / run.reward_scores.name, scores, SCORE_COLUMNS)
        artifacts.write_json(out / run.reward_summary.name, training)
    first = next(iter(training.values()))
    too_long = [job.pairs[i] for i in first["pairs_too_long"]]
    if ranks.main:
        reason = f"one of its texts has more tokens than {first['limit']}"
        lines = [{"source": row["source"], "line": None, "reason": f"{row['id']}: {reason}"} for row in too_long]
        artifacts.write_lines(out / QUARANTINE, lines)
    return Rows(len(job.pairs), len(job.pairs) - len(too_long), len(too_long))


def _trained_on(cfg: DictConfig) -> str:
    if cfg.data.name == "world":
        return f"World generator: `{generator_hash()}`, its language model: `{model_hash()}`."
    names = ", ".join(source.path or source.name for source in sources(cfg.data))
    return f"Base model: `{cfg.model.path or 'the embedded world'}`. Pairs: `{names}`; their licence applies."


def _evaluation_pairs(cfg: DictConfig, run: RunDir) -> dict[str, list[dict]]:
    """Pairs no model was trained on: the world's clean sets, or the held-out part of a file."""
    if cfg.data.name == "world":
        return {name: loaded.rows for name, loaded in evaluation_pairs(cfg).items()}
    return {"heldout": artifacts.read_rows(run.heldout_pairs)}


# ---- several models -------------------------------------------------------------------------------------------------


def _train(job: Job, missing: list[Wanted], ranks: Ranks) -> None:
    """One after the other, or side by side."""
    workers = Workers.of(job.cfg.run.workers, job.cfg.model.name == "world", len(missing), ranks)
    if workers.count > 1:
        side_by_side(partial(_train_beside, job, missing), len(missing), workers, "reward models", "train_rm")
        return
    with workers.here():
        for wanted in missing:
            progress = ProgressBar(f"reward model {wanted.margins}, seed {wanted.seed}")
            _train_one(job, wanted, progress, ranks)


def _train_beside(job: Job, missing: list[Wanted], number: int, progress: Progress) -> None:
    """In a process of its own."""
    _train_one(job, missing[number], progress, Ranks(beside=True))


# ---- one model ------------------------------------------------------------------------------------------------------


def _train_one(job: Job, wanted: Wanted, progress: ProgressBar | Progress, ranks: Ranks) -> None:
    """Trains, saves, loads back and scores one model, into its folder, which appears when all of it is there."""
    cfg, run, pairs, margins, seed = job.cfg, job.run, job.pairs, wanted.margins, wanted.seed
    done = job.done(wanted)
    source = model_source(cfg.model)
    loaded = load_reward_base(source, seed, quantized_on(cfg.lora))
    if cfg.run.tracking != "none":
        log_to(run.logs, f"{margins}-seed-{seed}")
    columns = _tokenized(loaded, pairs)
    lengths = [max(map(len, both)) for both in zip(columns["chosen_ids"], columns["rejected_ids"], strict=True)]
    limit, why = loaded.token_limit("trainer.max_length", cfg.trainer.max_length)
    too_long = [i for i, length in enumerate(lengths) if length > limit]
    if len(too_long) == len(pairs):
        raise UserError("train_rm", f"every pair has more tokens than {why}", "raise it, or give shorter pairs")
    if margins != "none":
        columns["margin"] = compared_margins(margins, np.array([row["margin"] for row in pairs]), seed).tolist()
    trainer = _trainer(cfg, loaded, columns, limit, wanted, done, ranks)
    if trainer.dropped_pairs != len(too_long):
        raise StageFailed("train_rm", f"TRL dropped {trainer.dropped_pairs} pairs, not {len(too_long)}", "report this")
    trainer.add_callback(progress)
    try:
        train(trainer, f"reward model {margins}, seed {seed}", ranks)
    finally:  # what follows an error starts on a line of its own
        progress.close()
        close_trackers(cfg.run.tracking)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    unfinished = done.with_name(f".{done.name}")
    if ranks.main:
        shutil.rmtree(unfinished, ignore_errors=True)
    ranks.wait()
    evaluation, pad_id = whole_pairs(loaded, job.evaluation), loaded.tokenizer.pad_token_id
    if not evaluation:
        raise StageFailed("evaluation pairs", "every one is longer than the model's context", "give shorter ones")
    probe = [answer for pair in evaluation[:PARITY_PAIRS] for answer in pair.answers]
    trained = _scores_of_split(trainer, probe, pad_id) if weights_are_split(trainer) else None
    save_whole(trainer, cfg.lora, AutoModelForSequenceClassification, unfinished / "model", ranks, source.revision)
    if ranks.main:
        save_tokenizer(loaded.format, unfinished / "model")
    ranks.wait()
    checkpoints = Path(trainer.args.output_dir)
    in_training = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    release(trainer)
    if ranks.main:
        trained = trained or _scores_in_training(in_training, cfg.lora, probe, pad_id)
    loaded.model = in_training = None  # on every rank: the next one takes their place
    free_memory()
    if ranks.main and quantized_on(cfg.lora) is not None:
        reload = partial(_reloaded, cfg, source, seed, adapters_beside(unfinished / "model"), probe)
        trained = replace(trained, reloaded=reload(quantized_on(cfg.lora)), unmerged=reload(None))
    ranks.wait()
    model = load_reward_model(unfinished / "model", device())
    if cut := sum(map(len, job.evaluation.values())) - len(evaluation):
        ranks.say(f"  {cut} evaluation pairs are left out: they are longer than the model's context")
    batches = done.parent / f"{done.name}.scores"
    scores = score_pairs(model, evaluation, Packing(**cfg.packing), pad_id, batches, ranks)
    if ranks.main:
        texts, template_texts = as_texts(loaded.format, evaluation[:PARITY_PAIRS])
        others = None if texts == template_texts else template_texts
        parity = check_parity(model, unfinished / "model", probe, texts, trained, others)
        card = reward_model_card(cfg.recipe, margins, seed, _trained_on(cfg), loaded.format, parity)
        (unfinished / "model" / "README.md").write_text(card, encoding="utf-8")
        rows = [{**row, "margins": margins, "seed": seed} for row in scores]
        artifacts.write_rows(unfinished / run.reward_scores.name, rows, SCORE_COLUMNS)
        summary = {
            "pairs_too_long": too_long,
            "limit": why,
            "evaluation_pairs_too_long": cut,
            "parity": parity,
            "history": history,
        }
        artifacts.write_json(unfinished / run.reward_summary.name, summary)
        artifacts.publish(unfinished, done, Manifest("reward model", {}, {}, {}))
        shutil.rmtree(checkpoints, ignore_errors=True)
    ranks.wait()


def _trainer(
    cfg: DictConfig,
    loaded: Loaded,
    columns: dict[str, list],
    limit: int,
    wanted: Wanted,
    done: Path,
    ranks: Ranks,
) -> MarginRewardTrainer:
    name = f"{cfg.recipe}-{wanted.margins}-seed-{wanted.seed}"
    arguments = MarginRewardConfig(
        output_dir=str(done.parent / f"{done.name}.checkpoints"),
        seed=wanted.seed,
        max_length=limit,
        center_rewards_coefficient=cfg.trainer.center_rewards_coefficient,
        packing=cfg.packing.name,
        packing_max_tokens=Packing(**cfg.packing).max_tokens,
        **shared_arguments(cfg.trainer, "trainer", ranks.count, cfg.run.tracking, name),
    )
    trainer = MarginRewardTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(cfg.lora, "SEQ_CLS", ["score"]),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _tokenized(loaded: Loaded, pairs: list[dict]) -> dict[str, list]:
    """Rendered here rather than by TRL, so that text in the data can't forge roles or special tokens."""
    columns: dict[str, list] = {"chosen_ids": [], "rejected_ids": []}
    for row in pairs:
        chosen, rejected = loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]])
        columns["chosen_ids"].append(chosen.ids)
        columns["rejected_ids"].append(rejected.ids)
    return columns


def _scores_in_training(
    model: PreTrainedModel, lora: Mapping[str, Any], rows: list[Rendered], pad_id: int
) -> TrainedScores:
    """What the trained model says, in float32 unless its weights are in 4 bits."""
    rounded = any(one.is_floating_point() and one.dtype != torch.float32 for one in model.parameters())
    if lora["name"] != "quantized":
        model.float()  # DeepSpeed's are in the training's precision
    model.eval()
    return TrainedScores(trained_scores(model, rows, pad_id), exact=lora["name"] == "none" or not rounded)


def _scores_of_split(trainer: MarginRewardTrainer, rows: list[Rendered], pad_id: int) -> TrainedScores:
    """What it says where no rank holds all of it: all of them score together, in the training's precision."""
    trainer.model_wrapped.eval()
    return TrainedScores(reward_scores(trainer.model_wrapped, rows, pad_id), exact=not trainer.args.bf16)


def _reloaded(
    cfg: DictConfig,
    source: ModelSource,
    seed: int,
    adapters: Path,
    rows: list[Rendered],
    quantized: torch.device | None,
) -> Tensor:
    """Scores of the adapters on their base as it is loaded again, in 4 bits or whole."""
    base = load_reward_base(source, seed, quantized)
    model = base.model if quantized is not None else base.model.to(device())
    return with_adapters(model, adapters, rows, base.tokenizer.pad_token_id)
