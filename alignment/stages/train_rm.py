"""Stage train_rm: reward models with and without margins, each loaded back and compared before it counts.

For every seed the models with and without margins start from the same weights and see the same pairs in the same order;
only the margins differ. Then each scores the evaluation pairs it has never seen. Models that others learn margins from
(reward_models/variants.py) are trained first, and score the training pairs, too.
"""

import shutil
from dataclasses import replace
from functools import partial

import torch

from alignment.data.columns import text_message
from alignment.evaluation.pair_scores import SCORE_COLUMNS, WholePair, as_texts, score_pairs
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs
from alignment.inputs.transfer import transfer_pairs
from alignment.maths.margins import kinds_by_seed
from alignment.models.architecture import layer_count
from alignment.models.devices import device, free_memory
from alignment.models.load import load_reward_base, load_reward_model
from alignment.models.lower_states import StatesTable, read_lower_states
from alignment.models.packing import Packing
from alignment.models.parity import check_parity, in_bfloat16
from alignment.models.source import model_source
from alignment.models.upper_blocks import check_split, lower_part
from alignment.reward_models.learned_margins import margins_of, read_gaps, require_severities, write_gaps
from alignment.reward_models.trained_reward import reward_trainer, save_reward
from alignment.reward_models.variants import Trainings, Variant, all_teachers, teachers_of
from alignment.runs import artifacts
from alignment.runs.locks import link_or_copy
from alignment.runs.manifest import Manifest, Rows
from alignment.runs.ranks import Ranks
from alignment.trainers.arguments import close_trackers, log_to, quantized_on
from alignment.trainers.progress import ProgressBar
from alignment.trainers.resuming import train
from alignment.trainers.side_by_side import Progress, Workers, side_by_side
from alignment.types import StageFailed

PARITY_PAIRS = 16  # whose scores are compared before and after the model is loaded back
PARITY_PAIRS_OF_UPPER = 4  # likewise, beside trainings that are shorter than the whole model's passes over more of them


def run(job: Job) -> Rows:
    settings, ranks = job.cfg.reward_model, job.ranks
    pairs = artifacts.read_rows(job.run.pairs)
    trainings = Trainings(job, pairs, _evaluation_pairs(job) | transfer_pairs(job.cfg, pairs, ranks))
    kinds = kinds_by_seed(settings.margins, settings.seeds, settings.control_seeds)
    variants = [Variant(margins, seed) for margins, seed in kinds]
    require_severities(variants, pairs)
    trainings = replace(trainings, teachers=all_teachers(variants, settings.ensemble))
    every = list(dict.fromkeys([*trainings.teachers, *variants]))
    if there := sum(trainings.done(variant).exists() for variant in every):
        ranks.say(f"  {there} of {len(every)} models are there from an earlier run")
    missing = ranks.from_main(lambda: [variant for variant in every if trainings.is_missing(variant)])
    if missing and job.cfg.trainer.upper_blocks is not None:
        trainings = replace(trainings, states=_lower_states(trainings))
    taught = [variant for variant in missing if teachers_of(variant, settings.ensemble)]
    _train(trainings, [variant for variant in missing if variant not in taught])
    if taught:
        _train(replace(trainings, gaps=[read_gaps(trainings, teacher) for teacher in trainings.teachers]), taught)
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
    if not missing:
        return
    workers = Workers.of(job.cfg.run.workers, job.cfg.model.name == "world", len(missing), job.ranks)
    if workers.count > 1:
        beside = replace(trainings, job=replace(job, ranks=Ranks(beside=True)))
        side_by_side(partial(_train_beside, beside, missing), len(missing), workers, "reward models", "train_rm")
        return
    with workers.here():
        for variant in missing:
            _train_one(trainings, variant, ProgressBar(f"reward model {variant}"))


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
        log_to(job.run.logs, "-".join(trainings.name(variant).parts))
    texts = trainings.texts(loaded)
    read = texts if trainings.states is None else texts.by_number()
    columns, limit, too_long = read.columns(), texts.limit, texts.too_long
    if margins != "none":
        columns["margin"] = margins_of(trainings, variant).tolist()
    learned_from = trainings.learns_from(variant)
    columns = {name: [values[i] for i in learned_from] for name, values in columns.items()}
    dropped = len(set(too_long) & set(learned_from))
    checkpoints = done.with_name(f"{done.name}.checkpoints")
    trainer = reward_trainer(job, variant, loaded, trainings.trained_part(loaded.model), columns, limit, checkpoints)
    if trainer.dropped_pairs != dropped:
        raise StageFailed("train_rm", f"TRL dropped {trainer.dropped_pairs} pairs, not {dropped}", "report this")
    trainer.add_callback(progress)
    try:
        train(trainer, f"reward model {variant}", ranks)
    finally:  # what follows an error starts on a line of its own
        progress.close()
        close_trackers(cfg.run.tracking)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    learned = {"pairs": len(learned_from) - dropped, "steps": trainer.state.global_step}
    unfinished = done.with_name(f".{done.name}")
    if ranks.main:
        shutil.rmtree(unfinished, ignore_errors=True)
    ranks.wait()
    count = PARITY_PAIRS if trainings.states is None else PARITY_PAIRS_OF_UPPER
    trained = save_reward(trainings, seed, trainer, loaded, read.probe(count), unfinished / "model")
    model = load_reward_model(unfinished / "model", device())
    if cut := sum(map(len, trainings.evaluation.values())) - len(texts.evaluation):
        ranks.say(f"  {cut} evaluation pairs are left out: they are longer than the model's context")
    batches, packing = done.with_name(f"{done.name}.scores"), Packing(**cfg.packing)
    scores = score_pairs(trainings.trained_part(model), read.evaluation, packing, texts.padding, batches, ranks)
    if variant in trainings.teachers:
        whole = [WholePair("training", pairs[i], pair) for i, pair in enumerate(read.training) if i not in too_long]
        batches = done.with_name(f"{done.name}.gaps")
        own = score_pairs(trainings.trained_part(model), whole, packing, texts.padding, batches, ranks)
        if ranks.main:
            write_gaps(unfinished, len(pairs), too_long, own)
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
