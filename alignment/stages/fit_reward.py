"""Stage fit_reward: a hybrid reward on the policy's own activations, fitted on training pairs with the noise they have,
or on pairs of its own (reward.path).

A hybrid reward is a linear probe per layer and a gate that weighs the layers. The states of all layers are taken from
read_states or read in planned batches. Every gate is fitted, since they share nearly all of the work, and judged on
pairs kept from training; the configured one is saved. Of every pair it was fitted on, a fit without that pair says how
far its label is to be believed.
"""

import numpy as np
import pyarrow as pa
from torch import Tensor

from alignment.data.columns import PAIR_COLUMNS
from alignment.data.columns import Loaded as LoadedRows
from alignment.data.prompt_folds import same_prompts
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs
from alignment.inputs.reward_pairs import reward_pairs
from alignment.maths.cross_fitting import FOLDS
from alignment.maths.hybrid import GATES
from alignment.models.activations import check_layers
from alignment.models.devices import device
from alignment.models.hybrid_quality import describe, intervals, ordered_right
from alignment.models.hybrid_reward import HybridReward
from alignment.models.kept_states import fitting_states
from alignment.models.load import load_backbone
from alignment.models.packing import Packing
from alignment.models.pair_states import pair_states, whole_pairs
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.types import Gate, UserError

FITTED_COLUMNS = pa.schema([*PAIR_COLUMNS, ("gap", pa.float64()), ("gamma", pa.float64())])
FEWEST = 20  # training pairs
SHORT = ("hard", "soft", "true", "alpha", "ece", "saturated_share")  # what is reported of every gate


def run(job: Job) -> Rows:
    cfg, settings, ranks = job.cfg, job.cfg.reward, job.ranks
    source = model_source(cfg.model)
    loaded = load_backbone(source, device())
    check_layers(loaded.model, loaded.tokenizer.eos_token_id)
    max_length = min(settings.max_length, loaded.context or settings.max_length)
    train, heldout = reward_pairs(cfg, job.run, ranks)
    parts = {"train": train, "heldout": heldout, **evaluation_pairs(cfg)}
    items = {
        name: whole_pairs(part, loaded, max_length, settings.pairs if name == "train" else None)
        for name, part in parts.items()
    }
    quarantined = [row for part in parts.values() for row in part.quarantined]
    prompts = same_prompts([row["prompt"] for row in train.rows])
    _require_enough(prompts, len(items["heldout"]), quarantined)
    kept = fitting_states(job.run.states, source.fingerprint, loaded.model.dtype, settings.pooling, ranks.say)
    packing = Packing(**cfg.packing)
    states = pair_states(items, loaded, packing, settings.pooling, settings.batch_tokens, job.work, ranks, kept)
    if ranks.main:
        rewards = HybridReward.fit_gates(
            *states["train"].unbind(1), GATES, cfg.seed, settings.margin, settings.pooling, prompts
        )
        rewards[settings.gate].meaning |= {"model": source.fingerprint, "data": cfg.data.name}
        rewards[settings.gate].save(job.out / job.run.hybrid_reward.name)
        artifacts.write_rows(
            job.out / job.run.fitted_pairs.name, _judged(train, rewards[settings.gate]), FITTED_COLUMNS
        )
        asked = np.unique([repr(pair.prompt) for pair in items["heldout"]], return_inverse=True)[1]
        report = {
            **_quality(rewards, settings.gate, states, cfg.seed),
            "pairs": {name: len(part) for name, part in states.items()},
            "ci95": intervals(rewards[settings.gate], *states["heldout"].unbind(1), asked, cfg.seed),
        }
        artifacts.write_json(job.out / job.run.hybrid_report.name, report)
    return job.set_aside(quarantined, sum(part.read for part in parts.values()))


def _require_enough(prompts: np.ndarray, heldout: int, quarantined: list[dict]) -> None:
    """UserError where pairs are too few to fit on, before their states are read. prompts: a number for each pair's."""
    if len(prompts) < FEWEST or not heldout:
        reason = quarantined[0]["reason"] if quarantined else "none"
        few = f"{len(prompts)} training and {heldout} held-out pairs can be read"
        raise UserError("fit_reward", few, f"give {FEWEST} and 1; set aside: {reason}")
    if (count := len(np.unique(prompts))) < FOLDS:
        few = (
            f"{len(prompts)} training pairs that can be read have {count} prompts, too few to fit on some and judge by"
        )
        raise UserError("fit_reward", f"{few} others", f"give pairs of {FOLDS} prompts or more")


def _judged(train: LoadedRows, reward: HybridReward) -> list[dict]:
    """The pairs that the reward was fitted on, with what fits without them say of each: docs/mislabelled_pairs.md."""
    said = zip(reward.cross_fitted.gaps.tolist(), reward.cross_fitted.confidences.tolist(), strict=True)
    return [{**row, "gap": gap, "gamma": gamma} for row, (gap, gamma) in zip(train.rows, said, strict=True)]


def _quality(rewards: dict[Gate, HybridReward], saved: Gate, states: dict[str, Tensor], seed: int) -> dict:
    """How good every gate is, and the saved one in full, on held-out pairs with the noise they have.

    `clean` is for the reader alone: the world's evaluation pairs have true labels, and nothing is chosen by them.
    """
    described = {gate: describe(reward, *states["heldout"].unbind(1), seed) for gate, reward in rewards.items()}
    return {
        **described[saved],
        "gate": saved,
        "pooling": rewards[saved].pooling,
        "pair_accuracy": {gate: quality["soft"] for gate, quality in described.items()},
        "by_gate": {
            gate: {**{key: quality[key] for key in SHORT}, "fitted": rewards[gate].meaning}
            for gate, quality in described.items()
        },
        "clean": {
            name: {
                gate: float(ordered_right(*map(reward.score, pairs.unbind(1))).mean())
                for gate, reward in rewards.items()
            }
            for name, pairs in states.items()
            if name not in ("train", "heldout")
        },
    }
