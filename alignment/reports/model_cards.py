"""Writes the cards of a run's policies and reward models, once all that they say is known.

They lie in the folders of the models, and are none of the files that a stage's manifest names: a card has a date, and
figures of stages that came later. A stage that is made anew has no cards yet, so a card that is there tells of this
very model: other calls in the same folder, with settings of their own, add figures to it and change nothing else.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import alignment
from alignment.data.licences import described, hub_name
from alignment.maths.metrics import ordered_right
from alignment.maths.statistics import rate_interval
from alignment.models.model_card import CARD, Origin, reward_model_card
from alignment.models.source import ModelSource, known_as
from alignment.policies.systems import SYSTEMS
from alignment.reports.card import compared_markdown
from alignment.reports.markdown import escaped
from alignment.reports.policy_card import NOT_EVALUATED, policy_card, with_figures
from alignment.reports.tables import FEW, FEW_MARK, counted, percent
from alignment.runs import artifacts
from alignment.runs.manifest import MANIFEST, Manifest
from alignment.runs.run_files import RunDir
from alignment.world.identity import generator_hash

WORLD = "the embedded world of repalign (generator `{hash}`), made by a program; Apache-2.0"


def write_cards(
    run: RunDir, stages: Collection[str], recipe: str, source: ModelSource, data: list[Any], policy: Mapping[str, Any]
) -> None:
    """stages: those of this call, which were made with what the other arguments say.

    data: the sources of the pairs, none of them the world's; policy: conf/policy, for what all policies share.
    """
    base, version = known_as(source)
    pairs = "; ".join(described(one.name, one.path) for one in data) or WORLD.format(hash=generator_hash())
    names = [hub_name(one.name, one.path) for one in data]
    by = f"repalign {alignment.__version__}, recipe `{recipe}`"
    origin = Origin(base, version, [name for name in dict.fromkeys(names) if name], pairs, "", by)
    if "train_rm" in stages:
        _reward_models(run, origin)
    for trainings in sorted(run.root.glob("train_*/trainings.json")):
        stage = trainings.parent.name
        own = replace(origin, made=_day(trainings.parent)) if stage in stages else None
        _policies(run, stage, own, policy)


def _reward_models(run: RunDir, origin: Origin) -> None:
    if not (run.reward_summary.exists() and run.reward_scores.exists()):
        return
    scores = artifacts.read_rows(run.reward_scores)
    origin = replace(origin, made=_day(run.stage("train_rm")))
    for name, summary in artifacts.read_json(run.reward_summary).items():
        margins, _, seed = name.partition("/seed-")
        folder = run.reward_model(margins, int(seed))
        if (folder / CARD).exists():
            continue
        own = [row for row in scores if (row["margins"], row["seed"]) == (margins, int(seed))]
        _write(folder, reward_model_card(origin, margins, int(seed), summary, _ranked_right(own)))


def _ranked_right(rows: list[dict]) -> str:
    """A table of the sets, with the number of their pairs and an interval."""
    lines = ["| set | pairs | % |", "|---|---|---|"]
    few = False
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        right = ordered_right(*(np.array([row[f"{side}_score"] for row in own]) for side in ("chosen", "rejected")))
        prompts = np.unique([row["prompt_hash"] for row in own], return_inverse=True)[1]
        interval = rate_interval(right, prompts, np.random.default_rng(0))
        lines.append(f"| {name} | {escaped(counted(len(own)))} | {percent(interval.summary)} |")
        few |= len(own) < FEW
    kind = "Intervals are 95%, Wilson's, or over prompts where some have several pairs."
    notes = [f"{kind} The labels of the pairs are taken for right.", *([f"{escaped(FEW_MARK)}."] if few else [])]
    return "\n".join([*lines, "", " ".join(notes)])


def _policies(run: RunDir, stage: str, origin: Origin | None, policy: Mapping[str, Any]) -> None:
    """The cards of the policies that a stage published. origin: None if other calls made it."""
    is_of_these = _made_from(run, "report", "evaluate") and _made_from(run, "evaluate", stage)
    card = artifacts.read_json_if_intact(run.scorecard) if is_of_these else {}
    evaluated = [system["name"] for system in card.get("systems", [])]
    for training in artifacts.read_json(run.trainings(stage)):
        if not training["chosen"]:
            continue
        system, folder = training["system"], run.policy(stage, training["system"], training["seed"])
        figures = compared_markdown(card, system) if system in evaluated else [NOT_EVALUATED]
        figures += _reward_figure(run, stage, system)
        if (folder / CARD).exists():
            if system in evaluated:
                _write(folder, with_figures((folder / CARD).read_text(encoding="utf-8"), figures))
        elif origin is not None:
            _write(folder, policy_card(origin, training, policy, (folder / "adapters").is_dir(), figures))


def _reward_figure(run: RunDir, stage: str, system: str) -> list[str]:
    """How well the reward that taught it ranks unseen pairs; nothing if none did."""
    live = SYSTEMS[system].confidence == "live" and _made_from(run, stage, "fit_reward")
    ranked = SYSTEMS[system].star and _made_from(run, stage, "build_pairs")
    ranked = ranked and _made_from(run, "build_pairs", "fit_reward")
    report = artifacts.read_json_if_intact(run.hybrid_report) if live or ranked else {}
    if not report:
        return []
    count = report["pairs"]["heldout"]
    right = percent({"mean": report["soft"], "ci95": report["ci95"]["pair_accuracy"]})
    few = f" ({escaped(FEW_MARK)})" if count < FEW else ""
    n = escaped(counted(count))
    did = " and ".join(["ranked its samples"] * ranked + ["gave its first confidences"] * live)
    return ["", f"The hybrid reward that {did} ranks {right} percent of {n} held-out pairs right{few}."]


def _made_from(run: RunDir, stage: str, source: str) -> bool:
    """Whether a stage was made from another as that is published now."""
    folders = run.stage(stage), run.stage(source)
    if not all((folder / MANIFEST).exists() for folder in folders):
        return False
    made, read = map(Manifest.read, folders)
    return made.inputs.get(f"stage {source}") == read.key


def _day(stage: Path) -> str:
    """The day a stage was published."""
    return datetime.fromtimestamp((stage / MANIFEST).stat().st_mtime, UTC).date().isoformat()


def _write(folder: Path, card: str) -> None:
    """Writes a card, unless it is there already: a copy of a run may be one that nobody may write to."""
    path = folder / CARD
    if folder.is_dir() and not (path.exists() and path.read_text(encoding="utf-8") == card):
        with artifacts.atomic_file(path) as file:
            file.write_text(card, encoding="utf-8")
