"""Stage fit_reward: a hybrid reward on the policy's own activations, fitted on training pairs with the noise they have.

A hybrid reward is a linear probe per layer and a gate that weighs the layers. The states of all layers are read in
planned batches. Every gate is fitted, since they share nearly all of the work, and judged on pairs kept from training;
the configured one is saved. Of every pair it was fitted on, a fit without that pair says how far its label is to be
believed.
"""

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor

from alignment.data.cells import BadRow
from alignment.data.columns import PAIR_COLUMNS
from alignment.data.columns import Loaded as LoadedRows
from alignment.inputs.job import Job
from alignment.inputs.pairs import evaluation_pairs, given_pairs
from alignment.maths.hybrid import GATES
from alignment.models.activations import check_layers, layer_count, response_states, states_layout
from alignment.models.devices import device, to_host
from alignment.models.hybrid_quality import describe, intervals, ordered_right
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_backbone
from alignment.models.packing import Item, Layout, Packing
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.manifest import Rows
from alignment.types import Gate, UserError

FITTED_COLUMNS = pa.schema([*PAIR_COLUMNS, ("gap", pa.float64()), ("gamma", pa.float64())])
SHORT = ("hard", "soft", "true", "alpha", "ece", "saturated_share")  # what is reported of every gate


def run(job: Job) -> Rows:
    cfg, settings, ranks = job.cfg, job.cfg.reward, job.ranks
    source = model_source(cfg.model)
    loaded = load_backbone(source, device())
    check_layers(loaded.model, loaded.tokenizer.eos_token_id)
    max_length = min(settings.max_length, loaded.context or settings.max_length)
    train, heldout = given_pairs(cfg, job.run, ranks)
    parts = {"train": train, "heldout": heldout, **evaluation_pairs(cfg)}
    items = {
        name: _render(part, loaded, max_length, settings.pairs if name == "train" else None)
        for name, part in parts.items()
    }
    every = [item for part in items.values() for item in part]
    layout = states_layout(loaded.model, Packing(**cfg.packing), loaded.tokenizer.pad_token_id, every, ranks.say)
    states = {name: _read(job, name, part, loaded, layout) for name, part in items.items()}
    quarantined = [row for part in parts.values() for row in part.quarantined]
    if len(states["train"]) < 20 or not len(states["heldout"]):
        reason = quarantined[0]["reason"] if quarantined else "none"
        few = f"{len(states['train'])} training and {len(states['heldout'])} held-out pairs can be read"
        raise UserError("fit_reward", few, f"give 20 and 1; set aside: {reason}")
    if ranks.main:
        rewards = HybridReward.fit_gates(*states["train"].unbind(1), GATES, cfg.seed, settings.margin, settings.pooling)
        rewards[settings.gate].meaning |= {"model": source.fingerprint, "data": cfg.data.name}
        rewards[settings.gate].save(job.out / job.run.hybrid_reward.name)
        artifacts.write_rows(
            job.out / job.run.fitted_pairs.name, _judged(train, rewards[settings.gate]), FITTED_COLUMNS
        )
        prompts = np.unique([repr(pair.prompt) for pair in items["heldout"]], return_inverse=True)[1]
        report = {
            **_quality(rewards, settings.gate, states, cfg.seed),
            "pairs": {name: len(part) for name, part in states.items()},
            "ci95": intervals(rewards[settings.gate], *states["heldout"].unbind(1), prompts, cfg.seed),
        }
        artifacts.write_json(job.out / job.run.hybrid_report.name, report)
    return job.set_aside(quarantined, sum(part.read for part in parts.values()))


def _render(part: LoadedRows, loaded: Loaded, max_length: int, most: int | None) -> list[Item]:
    """The first pairs that can be read whole; those that can't are set aside."""

    def whole(row: dict) -> Item:
        both = loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]], max_length)
        if any(answer.truncated or len(answer.ids) <= answer.prompt_length for answer in both):
            raise BadRow(f"an answer doesn't fit into {max_length} tokens")
        return Item.of(both)

    return part.readable(whole, most=most)


def _read(job: Job, name: str, pairs: list[Item], loaded: Loaded, layout: Layout) -> Tensor:
    """(pair, 2, layer, width) states of chosen and rejected answers."""
    settings, layers = job.cfg.reward, range(1, layer_count(loaded.model) + 1)

    def compute(batch: list[int]) -> Pending:
        items = [pairs[i] for i in batch]
        states, _ = response_states(loaded.model, layout, items, layers, settings.pooling, loaded.end_ids)
        both = to_host(torch.stack(states.chunk(2), dim=1))
        return lambda: save({"states": both()})

    sizes = [layout.size(pair) for pair in pairs]
    what = f"reading {name} pairs"
    batches = compute_in_batches(job.work / name, what, sizes, settings.batch_tokens, compute, job.ranks)
    width = loaded.model.config.get_text_config().hidden_size
    states = torch.empty(len(pairs), 2, len(layers), width)
    for batch, content in batches:
        states[batch] = load(content)["states"]
    return states


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
