"""The trainer of one reward model, and its weights on disk once it has ended."""

from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PrinterCallback

from alignment.data.chat import Rendered
from alignment.inputs.job import Job
from alignment.models.devices import device, free_memory
from alignment.models.load import Loaded, load_reward_base, saved_dtype
from alignment.models.packing import Packing
from alignment.models.parity import TrainedScores, save_tokenizer, with_adapters
from alignment.models.scoring import reward_scores
from alignment.models.source import model_source
from alignment.reward_models.variants import Trainings, Variant
from alignment.trainers.arguments import lora_config, quantized_on, shared_arguments
from alignment.trainers.finishing import (
    adapters_of,
    release,
    save_own,
    save_whole,
    scores_in_training,
    weights_are_split,
)
from alignment.trainers.margin_rm import MarginRewardConfig, MarginRewardTrainer


def reward_trainer(
    job: Job, variant: Variant, loaded: Loaded, model: PreTrainedModel, columns: dict[str, list], limit: int,
    checkpoints: Path,
) -> MarginRewardTrainer:  # fmt: skip
    cfg = job.cfg
    name = "-".join([cfg.recipe, *str(variant).replace(",", "").split()])
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


def save_reward(
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
