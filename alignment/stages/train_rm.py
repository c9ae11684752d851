"""Stage train_rm: reward models with and without margins, each loaded back and compared before it counts.

For every seed the models with and without margins start from the same weights and see the same pairs in the same order;
only the margins differ. Then each scores the evaluation pairs it has never seen.
"""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PrinterCallback

from alignment.data.chat import Rendered
from alignment.data.columns import text_message
from alignment.evaluation.pair_scores import SCORE_COLUMNS, as_texts, score_pairs
from alignment.evaluation.reward_texts import RewardTexts
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs
from alignment.inputs.transfer import transfer_pairs
from alignment.maths.margins import compared_margins, kinds_by_seed
from alignment.models.architecture import layer_count
from alignment.models.devices import device, free_memory
from alignment.models.load import Loaded, load_reward_base, load_reward_model, saved_dtype
from alignment.models.lower_states import StatesTable, read_lower_states
from alignment.models.packing import Packing
from alignment.models.parity import TrainedScores, check_parity, in_bfloat16, save_tokenizer, with_adapters
from alignment.models.scoring import reward_scores
from alignment.models.source import model_source
from alignment.models.upper_blocks import check_split, lower_part, upper_part
from alignment.runs import artifacts
from alignment.runs.locks import link_or_copy
from alignment.runs.manifest import Manifest, Rows, damage
from alignment.runs.ranks import Ranks
from alignment.trainers.arguments import close_trackers, log_to, lora_config, quantized_on, shared_arguments
from alignment.trainers.finishing import (
    adapters_of,
    release,
    save_own,
    save_whole,
    scores_in_training,
    weights_are_split,
)
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer
from alignment.trainers.progress import ProgressBar
from alignment.trainers.resuming import train
from alignment.trainers.side_by_side import Progress, Workers, side_by_side
from alignment.types import StageFailed

PARITY_PAIRS = 16  # whose scores are compared before and after the model is loaded back
PARITY_PAIRS_OF_UPPER = 4  # likewise, beside trainings that are shorter than the whole model's passes over more of them


@dataclass(frozen=True)
class Variant:
    """A reward model to train: which margins it learns from, and its seed."""

    margins: str
    seed: int


@dataclass(frozen=True)
class Trainings:
    """What the trainings of all variants share."""

    job: Job
    pairs: list[dict]
    evaluation: dict[str, list[dict]]
    states: StatesTable | None = None  # of the lower blocks, where upper ones alone are trained

    def texts(self, loaded: Loaded) -> RewardTexts:
        cfg = self.job.cfg
        return RewardTexts.of(loaded, self.pairs, self.evaluation, cfg.trainer.max_length, cfg.reward_model.transfer)

    def trained_part(self, model: PreTrainedModel) -> PreTrainedModel:
        """What of a model trains and is scored; it shares its weights with the model."""
        blocks = self.job.cfg.trainer.upper_blocks
        return model if self.states is None else upper_part(model, blocks, self.states.module())

    def name(self, variant: Variant) -> Path:
        """A model's folder, as it is named within the stage."""
        return self.job.run.inside(self.job.run.reward_model(variant.margins, variant.seed))

    def done(self, variant: Variant) -> Path:
        """Where all of a training goes once it has ended."""
        return self.job.run.finished(self.job.out) / self.name(variant)

    def is_missing(self, variant: Variant) -> bool:
        return damage(self.done(variant)) is not None


def run(job: Job) -> Rows:
    settings, ranks = job.cfg.reward_model, job.ranks
    pairs = artifacts.read_rows(job.run.pairs)
    trainings = Trainings(job, pairs, _evaluation_pairs(job) | transfer_pairs(job.cfg, pairs, ranks))
    kinds = kinds_by_seed(settings.margins, settings.seeds, settings.control_seeds)
    variants = [Variant(margins, seed) for margins, seed in kinds]
    if there := sum(trainings.done(variant).exists() for variant in variants):
        ranks.say(f"  {there} of {len(variants)} models are there from an earlier run")
    missing = ranks.from_main(lambda: [variant for variant in variants if trainings.is_missing(variant)])
    if missing and job.cfg.trainer.upper_blocks is not None:
        trainings = replace(trainings, states=_lower_states(trainings))
    _train(trainings, missing)
    scores: list[dict] = []
    summaries: dict[str, dict] = {}
    for variant in variants:
        done, name = trainings.done(variant), trainings.name(variant)
        summaries[str(name)] = artifacts.read_json(done / job.run.reward_summary.name)
        scores += artifacts.read_rows(done / job.run.reward_scores.name)
        if ranks.main:
            shutil.copytree(done / "model", job.out / name, copy_function=link_or_copy)
    first = next(iter(summaries.values()))  # all variants set the same pairs aside
    if ranks.main:
        artifacts.write_rows(job.out / job.run.reward_scores.name, scores, SCORE_COLUMNS)
        artifacts.write_json(job.out / job.run.reward_summary.name, summaries)
    too_long = [trainings.pairs[i] for i in first["pairs_too_long"]]
    reason = f"one of its texts has more tokens than {first['limit']}"
    lines = [{"source": row["source"], "line": None, "reason": f"{row['id']}: {reason}"} for row in too_long]
    return job.set_aside(lines, len(trainings.pairs))


def _evaluation_pairs(job: Job) -> dict[str, list[dict]]:
    """Pairs no model was trained on: the world's clean sets, or the held-out part of a file."""
    if job.cfg.data.name == "world":
        return {name: part.rows for name, part in evaluation_pairs(job.cfg).items()}
    return {"heldout": artifacts.read_rows(job.run.heldout_pairs)}


def _lower_states(trainings: Trainings) -> StatesTable:
    """What the frozen lower blocks give for all texts, read once for all trainings."""
    cfg, ranks, blocks = trainings.job.cfg, trainings.job.ranks, trainings.job.cfg.trainer.upper_blocks
    source = model_source(cfg.model)
    loaded = load_reward_base(source, seed=0)
    texts, model = trainings.texts(loaded), loaded.model.to(device())
    ranks.say(f"  trained: the upper {blocks} of {layer_count(model)} blocks, on states of the others that are kept")
    dtype = check_split(model, blocks, texts.probe(2), texts.padding)
    lower, folder = lower_part(model, blocks), trainings.job.work / "lower_states"
    if (
        source.dtype == "bfloat16"
    ):  # as other stages read the model; what is trained has weights in float32 all the same
        lower, dtype = in_bfloat16(lower), torch.bfloat16
    table = read_lower_states(lower, texts.numbers, Packing(**cfg.packing), dtype, folder, ranks)
    loaded.model = model = lower = None
    free_memory()
    return table


# ---- several models -------------------------------------------------------------------------------------------------


def _train(trainings: Trainings, missing: list[Variant]) -> None:
    """Trains the missing variants, one after the other or side by side."""
    job = trainings.job
    workers = Workers.of(job.cfg.run.workers, job.cfg.model.name == "world", len(missing), job.ranks)
    if workers.count > 1:
        beside = replace(trainings, job=replace(job, ranks=Ranks(beside=True)))
        side_by_side(partial(_train_beside, beside, missing), len(missing), workers, "reward models", "train_rm")
        return
    with workers.here():
        for variant in missing:
            _train_one(trainings, variant, ProgressBar(f"reward model {variant.margins}, seed {variant.seed}"))


def _train_beside(trainings: Trainings, missing: list[Variant], number: int, progress: Progress) -> None:
    """Trains one of the missing variants in a process of its own."""
    _train_one(trainings, missing[number], progress)


# ---- one model ------------------------------------------------------------------------------------------------------


def _train_one(trainings: Trainings, variant: Variant, progress: ProgressBar | Progress) -> None:
    """Trains, saves, loads back and scores one model, into its folder, which appears when all of it is there."""
    job, pairs = trainings.job, trainings.pairs
    cfg, ranks, margins, seed = job.cfg, job.ranks, variant.margins, variant.seed
    done = trainings.done(variant)
    loaded = load_reward_base(model_source(cfg.model), seed, quantized_on(cfg.lora))
    if cfg.run.tracking:
        log_to(job.run.logs, f"{margins}-seed-{seed}")
    texts = trainings.texts(loaded)
    read = texts if trainings.states is None else texts.by_number()
    columns, limit, too_long = read.columns(), texts.limit, texts.too_long
    if margins != "none":
        columns["margin"] = compared_margins(margins, np.array([row["margin"] for row in pairs]), seed).tolist()
    checkpoints = done.with_name(f"{done.name}.checkpoints")
    trainer = _trainer(job, variant, loaded, trainings.trained_part(loaded.model), columns, limit, checkpoints)
    if trainer.dropped_pairs != len(too_long):
        raise StageFailed("train_rm", f"TRL dropped {trainer.dropped_pairs} pairs, not {len(too_long)}", "report this")
    trainer.add_callback(progress)
    try:
        train(trainer, f"reward model {margins}, seed {seed}", ranks)
    finally:  # what follows an error starts on a line of its own
        progress.close()
        close_trackers(cfg.run.tracking)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    learned = {"pairs": len(pairs) - len(too_long), "steps": trainer.state.global_step}
    unfinished = done.with_name(f".{done.name}")
    if ranks.main:
        shutil.rmtree(unfinished, ignore_errors=True)
    ranks.wait()
    count = PARITY_PAIRS if trainings.states is None else PARITY_PAIRS_OF_UPPER
    trained = _save(trainings, seed, trainer, loaded, read.probe(count), unfinished / "model")
    model = load_reward_model(unfinished / "model", device())
    if cut := sum(map(len, trainings.evaluation.values())) - len(texts.evaluation):
        ranks.say(f"  {cut} evaluation pairs are left out: they are longer than the model's context")
    batches, packing = done.with_name(f"{done.name}.scores"), Packing(**cfg.packing)
    scores = score_pairs(trainings.trained_part(model), read.evaluation, packing, texts.padding, batches, ranks)
    if ranks.main:
        written, by_template = as_texts(loaded.format, texts.evaluation[:count])
        others = None if written == by_template else by_template
        parity = check_parity(model, unfinished / "model", texts.probe(count), written, trained, others)
        rows = [{**row, "margins": margins, "seed": seed} for row in scores]
        artifacts.write_rows(unfinished / job.run.reward_scores.name, rows, SCORE_COLUMNS)
        left_out = {"pairs_too_long": too_long, "limit": texts.limited_by, "evaluation_pairs_too_long": cut}
        conversation = loaded.format.text(text_message("user", "A"), text_message("assistant", "B"))
        summary = {**learned, **left_out, "parity": parity, "conversation": conversation, "history": history}
        artifacts.write_json(unfinished / job.run.reward_summary.name, summary)
        artifacts.publish(unfinished, done, Manifest("reward model", {}, {}, {}))
        shutil.rmtree(checkpoints, ignore_errors=True)
    ranks.wait()


def _trainer(
    job: Job, variant: Variant, loaded: Loaded, model: PreTrainedModel, columns: dict[str, list], limit: int,
    checkpoints: Path,
) -> MarginRewardTrainer:  # fmt: skip
    cfg = job.cfg
    name = f"{cfg.recipe}-{variant.margins}-seed-{variant.seed}"
    arguments = MarginRewardConfig(
        output_dir=str(checkpoints),
        seed=variant.seed,
        max_length=limit,
        center_rewards_coefficient=cfg.trainer.center_rewards_coefficient,
        packing=cfg.packing.name,
        packing_max_tokens=Packing(**cfg.packing).max_tokens,
        without_router_loss=cfg.trainer.without_router_loss,
        **shared_arguments(cfg.trainer, "trainer", job.ranks.count, cfg.run.tracking, name),
    )
    trainer = MarginRewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(cfg.lora, "SEQ_CLS", ["score"]),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _save(
    trainings: Trainings, seed: int, trainer: MarginRewardTrainer, loaded: Loaded, probe: list[Rendered], folder: Path
) -> TrainedScores | None:
    """Saves the trained model and frees its memory. The main process gets what the model said of the probe."""
    job, upper = trainings.job, trainings.states is not None
    lora, ranks, pad_id = job.cfg.lora, job.ranks, loaded.tokenizer.pad_token_id
    source = model_source(job.cfg.model)
    dtype = saved_dtype(source, job.cfg.trainer.save_dtype)
    trained = None
    if weights_are_split(trainer):  # no rank holds the whole model: all score together, in the training's precision
        trainer.model_wrapped.eval()
        exact = not trainer.args.bf16 and dtype == torch.float32
        trained = TrainedScores(reward_scores(trainer.model_wrapped, probe, pad_id), exact=exact)
    if upper:
        save_own(loaded.model, folder, ranks, dtype)
    else:
        save_whole(trainer, lora, AutoModelForSequenceClassification, folder, ranks, source.revision, dtype)
    if ranks.main:
        save_tokenizer(loaded.format, folder)
    ranks.wait()
    in_training = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    release(trainer)
    if ranks.main:
        trained = trained or scores_in_training(in_training, lora, dtype, probe, pad_id)
        trained = replace(trained, exact=trained.exact and not upper)  # the kept states are rounded
    loaded.model = in_training = None  # on every rank: the next one takes their place
    free_memory()
    quantized = quantized_on(lora)
    if ranks.main and quantized is not None:

        def reloaded(where: torch.device | None) -> Tensor:
            """Scores of the adapters on their base as it is loaded again, in 4 bits or whole."""
            base = load_reward_base(source, seed, where)
            model = base.model if where is not None else base.model.to(device())
            return with_adapters(model, adapters_of(folder), probe, pad_id)

        trained = replace(trained, reloaded=reloaded(quantized), unmerged=reloaded(None))
    ranks.wait()
    return trained
