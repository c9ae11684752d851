"""Stage annotate: the direction from the induced pairs, the margin of every preference pair, and how good they are.

Legend's direction is the SMV, the standard margin vector: the mean difference of the states of y+ and y-; a
discriminant is the same, whitened. A pair's raw margin is the difference of its answers' states projected on it;
binned, that is the margin.
"""

import json
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
from alignment.models.annotation_quality import gap_lines, paired_gain, quality, ranked_right
from alignment.models.annotator import Annotator, Pair
from alignment.models.devices import device
from alignment.models.directions import DRAWN, Direction, SideStates, agreement_of_halves, direction_by_labels
from alignment.models.kept_states import fitting_states
from alignment.models.layer_zero import embedding_margins
from alignment.models.load import load_backbone
from alignment.models.packing import Packing
from alignment.models.source import model_source
from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.types import Scope, UserError

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
    induced_pairs = _induced_pairs(job, annotator, induced)
    quarantined = train.quarantined + heldout.quarantined + induced.quarantined
    if len(induced_pairs) < 10 or len(pairs["train"]) < 10:
        few = f"{len(induced_pairs)} induced and {len(pairs['train'])} training pairs can be read"
        reason = next((row["reason"] for row in (*induced.quarantined, *quarantined)), "none")
        raise UserError("annotator", few, f"give 10 of each; set aside: {reason}")
    annotator = annotator.laid_out(Packing(**cfg.packing), [*induced_pairs, *pairs["train"], *pairs["heldout"]])
    scopes = {
        name: np.array([row["harmful"] in IN_SCOPE[settings.scope] for row in part.rows], dtype=bool)
        for name, part in parts.items()
    }
    if settings.scope != "all" and all(row["harmful"] is None for row in train.rows):
        ranks.say(f"  no pair says whether its prompt is harmful: all count as {settings.scope}")
    if not scopes["train"].any():
        raise UserError("annotator.scope", f"no training pair is in scope {settings.scope!r}", "use scope=all")
    if settings.labels is not None:
        drawn = _drawn(train, scopes["train"], settings.labels, cfg.seed)
    layers = annotator.layers(settings.layer, all_of_them=settings.labels is not None)
    states = annotator.side_states("induced", induced_pairs, layers) if settings.direction in DRAWN else None
    unlabelled = direction = annotator.direction(settings.direction, settings.layer, states, cfg.seed)
    if settings.labels is not None:
        labelled = annotator.side_states("labelled", [pairs["train"][i] for i in drawn], layers)
        direction = direction_by_labels(states, labelled, settings.layer == "length_free")
    raw_margins = {name: annotator.margins(name, pairs[name], direction, cfg.seed) for name in parts}
    without = (
        None if settings.labels is None else annotator.margins("unlabelled", pairs["heldout"], unlabelled, cfg.seed)
    )
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
        lines = gap_lines(train.rows, raw_margins["train"].raw, scopes["train"])
        calibration = {**_described(direction, binning, induced), "texts_with_markers": broken}
        calibration["halves"] = _halves(direction, states, cfg.seed)
        for name, part in parts.items():
            embedded = embedding_margins(loaded.model, induced_pairs, pairs[name])
            calibration[name] = quality(part.rows, raw_margins[name], embedded, scopes[name], binning, lines)
        if without is not None:
            raw, scope = raw_margins["heldout"].raw, scopes["heldout"]
            right = ranked_right(heldout.rows, without.raw, scope)
            gain = paired_gain(heldout.rows, raw, without.raw, scope)
            named = {**_named(unlabelled), "ranked_right": right}
            calibration["labels"] = {"pairs": len(drawn), "without": named, "gain": gain}
        artifacts.write_json(job.out / job.run.calibration.name, calibration)
        if broken:
            ranks.say(f"  {broken} texts held a special token or role marker of the model: broken up by a space")
    return job.set_aside(quarantined, train.read + heldout.read + induced.read)


def _induced_pairs(job: Job, annotator: Annotator, induced: Loaded) -> list[Pair]:
    """The induced pairs as the model reads them: whole, or cut to equal length."""
    settings = job.cfg.annotator
    matched, cut = settings.contrast.match_length, []

    def read(row: dict) -> Pair:
        pair = annotator.render(row, ("positive", "negative"), settings.joiner_induced)
        if not matched:
            return pair
        equal = annotator.equally_long(pair)
        cut.append([len(answer.ids) - answer.prompt_length for answer in (equal[0], *pair)])
        return equal

    pairs = induced.readable(read, "induced")
    if cut:
        tokens, positive, negative = np.array(cut).T
        longer = f"y+ was the longer one in {(positive > negative).sum()} of {len(cut)} pairs"
        job.ranks.say(
            f"  induced answers are read at equal length, {np.median(tokens):.0f} tokens in the median: {longer}"
        )
    return pairs


def _drawn(train: Loaded, scope: np.ndarray, count: int, seed: int) -> list[int]:
    """The numbers of so many training pairs in scope, drawn by the seed, each of another prompt."""
    drawn: dict[str, int] = {}
    for number in np.random.default_rng(seed).permutation(np.flatnonzero(scope)).tolist():
        if len(drawn) == count:
            break
        drawn.setdefault(prompt_text(train.rows[number]["prompt"]), number)
    if len(drawn) < count:
        problem = f"{count} labelled pairs are more than the {len(drawn)} prompts of the training pairs in scope"
        raise UserError("annotator.labels", problem, f"give at most {len(drawn)}")
    return list(drawn.values())


def _write_direction(job: Job, direction: Direction) -> None:
    """The vector, and what it means as one entry of the metadata: safetensors writes several in any order."""
    settings = job.cfg.annotator
    meaning = {"direction": direction.kind, "layer": direction.layer, "pooling": settings.pooling}
    meaning |= {f"contrast.{key}": value for key, value in settings.contrast.items()}
    vector = torch.zeros(0) if direction.vector is None else direction.vector
    content = save({"direction": vector}, metadata={"meaning": json.dumps(meaning, sort_keys=True)})
    (job.out / job.run.direction.name).write_bytes(content)


def _named(direction: Direction) -> dict:
    return {"direction": direction.kind, "layer": direction.layer, "shrinkage": direction.shrinkage}


def _halves(direction: Direction, states: SideStates | None, seed: int) -> dict | None:
    """How far directions from either half of the questions agree."""
    cosines = None if states is None else agreement_of_halves(direction, states, seed)
    if cosines is None:
        return None
    spread = {"mean": float(np.mean(cosines)), "range": [min(cosines), max(cosines)]}
    return {"pairs": len(states.positive), "halvings": len(cosines), **spread}


def _described(direction: Direction, binning: Binning, induced: Loaded) -> dict:
    separations = direction.separation_by_layer or {}
    unfinished = sum(not (row["positive_finished"] and row["negative_finished"]) for row in induced.rows)
    return {
        **_named(direction),
        "separation_by_layer": {str(layer): value for layer, value in separations.items()},
        "norm": None if direction.vector is None else float(direction.vector.norm()),
        "induced": {"pairs": len(induced.rows), "unfinished": unfinished},
        "binning": asdict(binning),
    }
