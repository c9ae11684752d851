"""Stage annotate: the direction from the induced pairs, the margin of every preference pair, and how good they are.

Legend's direction is the SMV, the standard margin vector: the mean difference of the states of y+ and y-. A pair's raw
margin is the difference of its answers' states projected on it; binned, that is the margin.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save

from alignment.data.columns import MARGIN_COLUMNS, Loaded
from alignment.data.same_prompts import prompt_text
from alignment.inputs.job import Job
from alignment.inputs.pairs import given_pairs, require_enough
from alignment.maths.margins import Binning, fit_binning
from alignment.maths.metrics import distribution, spearman
from alignment.maths.statistics import bootstrap, rate_interval
from alignment.models.annotator import Annotator, Direction, RawMargins
from alignment.models.devices import device
from alignment.models.kept_states import fitting_states
from alignment.models.load import load_backbone
from alignment.models.packing import Packing
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.types import Scope, UserError

MANY = 5000  # pairs whose intervals take longer to draw than they are worth
IN_SCOPE: dict[Scope, tuple[bool | None, ...]] = {  # None: nobody said
    "harmful": (True, None), "harmless": (False, None), "all": (True, False, None),
}  # fmt: skip


def run(job: Job) -> Rows:
    cfg, ranks, settings = job.cfg, job.ranks, job.cfg.annotator
    train, heldout = given_pairs(cfg, job.run, ranks)
    require_enough(cfg, job.run, train, heldout)
    induced = Loaded(artifacts.read_rows(job.run.induced))
    parts = {"train": train, "heldout": heldout}
    source = model_source(cfg.model)
    loaded = load_backbone(source, device())
    max_length = min(settings.max_length, loaded.context or settings.max_length)
    kept = fitting_states(
        job.run.states, source.fingerprint, loaded.model.dtype, settings.pooling, ranks.say, settings.prompt
    )
    annotator = Annotator(
        loaded, settings.pooling, settings.prompt, max_length, settings.batch_tokens, job.work, ranks, kept=kept
    )
    pairs = {
        name: part.readable(lambda row: annotator.render(row, ("chosen", "rejected"), settings.joiner_pairs))
        for name, part in parts.items()
    }
    induced_pairs = induced.readable(
        lambda row: annotator.render(row, ("positive", "negative"), settings.joiner_induced), "induced"
    )
    quarantined = train.quarantined + heldout.quarantined + induced.quarantined
    if len(induced_pairs) < 10 or len(pairs["train"]) < 10:
        few = f"{len(induced_pairs)} induced and {len(pairs['train'])} training pairs can be read"
        reason = next((row["reason"] for row in (*induced.quarantined, *quarantined)), "none")
        raise UserError("annotator", few, f"give 10 of each; set aside: {reason}")
    annotator = annotator.laid_out(Packing(**cfg.packing), [*induced_pairs, *pairs["train"], *pairs["heldout"]])
    direction = annotator.direction(settings.direction, settings.layer, induced_pairs, cfg.seed)
    raw_margins = {name: annotator.margins(name, pairs[name], direction) for name in parts}
    scopes = {
        name: np.array([row["harmful"] in IN_SCOPE[settings.scope] for row in part.rows], dtype=bool)
        for name, part in parts.items()
    }
    if settings.scope != "all" and all(row["harmful"] is None for row in train.rows):
        ranks.say(f"  no pair says whether its prompt is harmful: all count as {settings.scope}")
    if not scopes["train"].any():
        raise UserError("annotator.scope", f"no training pair is in scope {settings.scope!r}", "use scope=all")
    binning = fit_binning(raw_margins["train"].raw[scopes["train"]], **OmegaConf.to_container(settings.binning))
    if ranks.main:
        for path, name in ((job.run.pairs, "train"), (job.run.heldout_pairs, "heldout")):
            raw = raw_margins[name].raw
            margins = np.where(scopes[name], binning(raw), 0.0)
            annotated = [
                {**row, "margin": margin, "margin_raw": raw_margin}
                for row, margin, raw_margin in zip(parts[name].rows, margins, raw, strict=True)
            ]
            artifacts.write_rows(job.out / path.name, annotated, MARGIN_COLUMNS)
        _write_direction(job, direction)
        broken = loaded.format.broken
        quality = {name: _quality(parts[name].rows, raw_margins[name], scopes[name], binning) for name in parts}
        calibration = {**_described(direction, binning, induced), "texts_with_markers": broken, **quality}
        artifacts.write_json(job.out / job.run.calibration.name, calibration)
        if broken:
            ranks.say(f"  {broken} texts held a special token or role marker of the model: broken up by a space")
    return job.set_aside(quarantined, train.read + heldout.read + induced.read)


def _write_direction(job: Job, direction: Direction) -> None:
    """The vector, and what it means as one entry of the metadata: safetensors writes several in any order."""
    settings = job.cfg.annotator
    meaning = {"direction": direction.kind, "layer": direction.layer, "pooling": settings.pooling}
    meaning |= {f"contrast.{key}": value for key, value in settings.contrast.items()}
    vector = torch.zeros(0) if direction.vector is None else direction.vector
    content = save({"direction": vector}, metadata={"meaning": json.dumps(meaning, sort_keys=True)})
    (job.out / job.run.direction.name).write_bytes(content)


# ---- how good the margins are ---------------------------------------------------------------------------------------


def _described(direction: Direction, binning: Binning, induced: Loaded) -> dict:
    separations = direction.separation_by_layer or {}
    unfinished = sum(not (row["positive_finished"] and row["negative_finished"]) for row in induced.rows)
    return {
        "layer": direction.layer,
        "separation_by_layer": {str(layer): value for layer, value in separations.items()},
        "norm": None if direction.vector is None else float(direction.vector.norm()),
        "induced": {"pairs": len(induced.rows), "unfinished": unfinished},
        "binning": asdict(binning),
    }


def _quality(rows: Sequence[dict], margins: RawMargins, scope: np.ndarray, binning: Binning) -> dict:
    """Of one part of the data: distribution, signs, length, and agreement with the truth where it is known."""
    inside, outside = margins.raw[scope], margins.raw[~scope]
    return {
        "pairs": len(rows),
        "in_scope": len(inside),
        "no_end": margins.no_end,
        "truncated": margins.truncated,
        "distribution": distribution(inside),
        "length_correlation": spearman(inside, margins.length_difference[scope].astype(float)),
        "ranked_right": _ranked_right(rows, margins.raw, scope),
        "out_of_scope": {"pairs": len(outside), "distribution": distribution(outside)},  # what they would have got
        **{
            kind: _agreement(rows, margins.raw, _gaps(rows, kind), scope, binning)
            for kind in ("severity", "helpfulness", "given")
        },
    }


def _ranked_right(rows: Sequence[dict], raw: np.ndarray, scope: np.ndarray) -> dict | None:
    """The share of pairs whose margin has the label's sign, where a margin of 0 counts half; with its interval."""
    if not scope.any():
        return None
    right = (raw[scope] > 0) + (raw[scope] == 0) / 2
    return rate_interval(right, _prompts(rows, scope), np.random.default_rng(0)).summary


def _prompts(rows: Sequence[dict], used: np.ndarray) -> np.ndarray:
    """The number of each used row's prompt: pairs of one prompt are alike."""
    prompts = [prompt_text(row["prompt"]) for row, is_used in zip(rows, used, strict=True) if is_used]
    return np.unique(prompts, return_inverse=True)[1]


def _correlation(raw: np.ndarray, gaps: np.ndarray, prompts: np.ndarray) -> list | None:
    """The interval of a rank correlation over prompts drawn with replacement."""
    draws = 1000 if len(prompts) < MANY else 100
    random = np.random.default_rng(0)
    found = bootstrap(lambda drawn: {"spearman": spearman(raw[drawn], gaps[drawn])}, prompts, random, draws)["spearman"]
    return None if found is None or found.low is None else [found.low, found.high]


def _agreement(
    rows: Sequence[dict], raw: np.ndarray, gaps: np.ndarray, scope: np.ndarray, binning: Binning
) -> dict | None:
    """Rank correlation with the true gaps: signed, binned, and of the sizes alone (how big, not which way)."""
    known = scope & ~np.isnan(gaps)
    if not known.any():
        return None
    raw, gaps = raw[known], gaps[known]
    return {
        "pairs": len(raw),
        "spearman": spearman(raw, gaps),
        "spearman_ci95": _correlation(raw, gaps, _prompts(rows, known)),
        "spearman_binned": spearman(binning(raw), gaps),
        "spearman_size": spearman(abs(raw), abs(gaps)),
    }


def _gaps(rows: Sequence[dict], kind: str) -> np.ndarray:
    """How much better chosen truly is, signed; NaN where that isn't known or doesn't matter for the prompt.

    Severity doesn't matter for harmless prompts, nor helpfulness for harmful ones.
    """
    if kind == "given":
        return np.array([np.nan if row["given_margin"] is None else row["given_margin"] for row in rows], dtype=float)
    sign, without = (-1, False) if kind == "severity" else (1, True)
    gaps = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        chosen, rejected = row[f"chosen_{kind}"], row[f"rejected_{kind}"]
        if chosen is not None and rejected is not None and row["harmful"] is not without:
            gaps[i] = sign * (chosen - rejected)
    return gaps
