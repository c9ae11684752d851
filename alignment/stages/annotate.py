"""Stage annotate: the direction from the induced pairs, the margin of every preference pair, and how good they are."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save

from alignment.data.columns import MARGIN_COLUMNS, Loaded
from alignment.data.same_prompts import prompt_text
from alignment.inputs.pairs import given_pairs, require_enough
from alignment.maths.agreement import bootstrap
from alignment.maths.margins import Binning, fit_binning
from alignment.maths.metrics import distribution, spearman
from alignment.models.annotator import Annotator, Direction, RawMargins
from alignment.models.devices import device
from alignment.models.load import load_backbone
from alignment.models.packing import Packing
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir
from alignment.types import Scope, UserError

MANY = 5000  # pairs whose intervals take longer to draw than they are worth
IN_SCOPE: dict[Scope, tuple[bool | None, ...]] = {  # None: nobody said
    "harmful": (True, None), "harmless": (False, None), "all": (True, False, None),
}  # fmt: skip


def run(cfg: DictConfig, run: RunDir, out: Path, ranks: Ranks) -> Rows:
    parts = dict(zip(("train", "heldout"), given_pairs(cfg, run, ranks), strict=True))
    require_enough(cfg, run, *parts.values())
    annotator = _annotator(cfg, out.parent, ranks)
    settings = cfg.annotator
    pairs = {
        name: loaded.readable(lambda row: annotator.render(row, ("chosen", "rejected"), settings.joiner_pairs))
        for name, loaded in parts.items()
    }
    induced = Loaded(artifacts.read_rows(run.induced))
    induced_pairs = induced.readable(
        lambda row: annotator.render(row, ("positive", "negative"), settings.joiner_induced), "induced"
    )
    if len(induced_pairs) < 10 or len(pairs["train"]) < 10:
        few = f"{len(induced_pairs)} induced and {len(pairs['train'])} training pairs can be read"
        raise UserError("annotator", few, f"give 10 of each; set aside: {_first_reason(induced, *parts.values())}")
    annotator = annotator.laid_out(Packing(**cfg.packing), [*induced_pairs, *pairs["train"], *pairs["heldout"]])
    direction = annotator.direction(settings.direction, settings.layer, induced_pairs, cfg.seed)
    readings = {name: annotator.margins(name, pairs[name], direction) for name in parts}
    scopes = {
        name: np.array([row["harmful"] in IN_SCOPE[settings.scope] for row in loaded.rows], dtype=bool)
        for name, loaded in parts.items()
    }
    if settings.scope != "all" and all(row["harmful"] is None for row in parts["train"].rows):
        ranks.say(f"  no pair says whether its prompt is harmful: all count as {settings.scope}")
    if not scopes["train"].any():
        raise UserError("annotator.scope", f"no training pair is in scope {settings.scope!r}", "use scope=all")
    binning = fit_binning(readings["train"].raw[scopes["train"]], **OmegaConf.to_container(settings.binning))
    everything = (*parts.values(), induced)
    if ranks.main:
        for path, name in ((run.pairs, "train"), (run.heldout_pairs, "heldout")):
            margins = np.where(scopes[name], binning(readings[name].raw), 0.0)
            _write_pairs(out / path.name, parts[name].rows, margins, readings[name].raw)
        _write_direction(out / run.direction.name, direction, cfg)
        broken = annotator.loaded.format.broken
        quality = {name: _quality(parts[name].rows, readings[name], scopes[name], binning) for name in parts}
        artifacts.write_json(
            out / run.calibration.name,
            {**_described(direction, binning, induced), "texts_with_markers": broken, **quality},
        )
        artifacts.write_lines(
            out / QUARANTINE, [row for part in (*parts.values(), induced) for row in part.quarantined]
        )
        if broken:
            ranks.say(f"  {broken} texts held a special token or role marker of the model: broken up by a space")
    read, written = sum(part.read for part in everything), sum(len(part.rows) for part in everything)
    return Rows(read, written, read - written)


def _first_reason(*parts: Loaded) -> str:
    return next((row["reason"] for part in parts for row in part.quarantined), "none")


def _annotator(cfg: DictConfig, work: Path, ranks: Ranks) -> Annotator:
    settings = cfg.annotator
    loaded = load_backbone(model_source(cfg.model), device())
    max_length = min(settings.max_length, loaded.context or settings.max_length)
    return Annotator(loaded, settings.pooling, settings.prompt, max_length, settings.batch_tokens, work, ranks)


def _write_pairs(path: Path, rows: Sequence[dict], margins: np.ndarray, raw: np.ndarray) -> None:
    annotated = [{**row, "margin": m, "margin_raw": r} for row, m, r in zip(rows, margins, raw, strict=True)]
    artifacts.write_rows(path, annotated, MARGIN_COLUMNS)


def _write_direction(path: Path, direction: Direction, cfg: DictConfig) -> None:
    """The vector with its meaning, in one entry of metadata: safetensors orders several at random."""
    settings = cfg.annotator
    meaning = {"direction": direction.kind, "layer": direction.layer, "pooling": settings.pooling}
    meaning |= {f"contrast.{key}": value for key, value in settings.contrast.items()}
    vector = torch.zeros(0) if direction.vector is None else direction.vector
    path.write_bytes(save({"direction": vector}, metadata={"meaning": json.dumps(meaning, sort_keys=True)}))


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


def _quality(rows: Sequence[dict], reading: RawMargins, scope: np.ndarray, binning: Binning) -> dict:
    """Of one part of the data: distribution, signs, length, and agreement with the truth where it is known."""
    inside, outside = reading.raw[scope], reading.raw[~scope]
    return {
        "pairs": len(rows),
        "in_scope": len(inside),
        "no_end": reading.no_end,
        "truncated": reading.truncated,
        "distribution": distribution(inside),
        "length_correlation": spearman(inside, reading.length_difference[scope].astype(float)),
        "ranked_right": _ranked_right(rows, reading.raw, scope),
        "out_of_scope": {"pairs": len(outside), "distribution": distribution(outside)},  # what they would have got
        **{
            kind: _agreement(rows, reading.raw, gap, scope & ~np.isnan(gap), binning)
            for kind, gap in {kind: _gaps(rows, kind) for kind in ("severity", "helpfulness", "given")}.items()
        },
    }


def _ranked_right(rows: Sequence[dict], raw: np.ndarray, scope: np.ndarray) -> dict | None:
    """The share of pairs whose margin has the label's sign, 0 half; with its interval over prompts."""
    if not scope.any():
        return None
    right = (raw[scope] > 0) + (raw[scope] == 0) / 2
    return _interval(lambda drawn: float(right[drawn].mean()), rows, scope)


def _interval(statistic: Callable[[np.ndarray], float | None], rows: Sequence[dict], used: np.ndarray) -> dict | None:
    """Over prompts drawn with replacement, since pairs of one prompt are alike."""
    prompts = [prompt_text(row["prompt"]) for row, one in zip(rows, used, strict=True) if one]
    _, clusters = np.unique(prompts, return_inverse=True)
    draws = 1000 if len(prompts) < MANY else 100
    found = bootstrap(lambda drawn: {"it": statistic(drawn)}, clusters, np.random.default_rng(0), draws)["it"]
    return None if found is None else found.summary


def _agreement(
    rows: Sequence[dict], raw: np.ndarray, gap: np.ndarray, known: np.ndarray, binning: Binning
) -> dict | None:
    """Rank correlation with the true gap: signed, binned, and of the sizes alone (how big, not which way)."""
    if not known.any():
        return None
    raw, gap = raw[known], gap[known]
    interval = _interval(lambda drawn: spearman(raw[drawn], gap[drawn]), rows, known)
    return {
        "pairs": len(raw),
        "spearman": spearman(raw, gap),
        "spearman_ci95": None if interval is None else interval["ci95"],
        "spearman_binned": spearman(binning(raw), gap),
        "spearman_size": spearman(abs(raw), abs(gap)),
    }


def _gaps(rows: Sequence[dict], kind: str) -> np.ndarray:
    """How much better chosen truly is, signed; NaN where that isn't known or doesn't matter for the prompt."""
    if kind == "given":
        return np.array([np.nan if row["given_margin"] is None else row["given_margin"] for row in rows], dtype=float)
    sign, other = (-1, False) if kind == "severity" else (1, True)
    gaps = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        chosen, rejected = row[f"chosen_{kind}"], row[f"rejected_{kind}"]
        if chosen is not None and rejected is not None and row["harmful"] is not other:
            gaps[i] = sign * (chosen - rejected)
    return gaps
