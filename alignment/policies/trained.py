"""Which models whose answers a run judges were trained, as far as is known: no judge may read their activations."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from alignment.models.model_card import CARD, tells_of_training
from alignment.models.source import folder_fingerprint, model_source, source_at
from alignment.policies.systems import SYSTEMS, evaluated
from alignment.runs.run_files import RunDir


def trained_models(cfg: Mapping[str, Any], run: RunDir, unmade: Collection[str]) -> dict[str, str]:
    """Their fingerprints, by what names them. unmade: stages that have yet to run, whose policies nobody knows.

    The model after a change counts as trained whatever it is; the one that a run begins with, where its folder says so.
    """
    own, after = model_source(cfg["model"]), cfg["scorecard"]["after"]
    found: dict[str, str] = {}
    if own.revision is None and is_policy(Path(own.path)):
        found["model.path" if after is None else "scorecard.before"] = own.fingerprint
    if after is not None:
        return {**found, "scorecard.after": source_at(after, "scorecard.after").fingerprint}
    for name in evaluated(cfg) if "evaluate" in cfg["stages"] else ():
        stage = SYSTEMS[name].stage
        for seed in cfg["policy"]["seeds"] if stage is not None and stage not in unmade else ():
            folder = run.policy(stage, name, seed)
            if folder.is_dir():
                found[f"{name}, seed {seed}"] = folder_fingerprint(folder)
    return found


def is_policy(folder: Path) -> bool:
    """Is it a policy that a run trained: does it lie where runs keep them, or does its card say so?"""
    folder = folder.resolve()
    if len(folder.parents) > 3:
        system, stage, root = folder.parents[1:4]
        if system.name in SYSTEMS and RunDir(root).trainings(stage.name).is_file():
            return True
    card = folder / CARD
    return card.is_file() and tells_of_training(card.read_text(encoding="utf-8", errors="replace"))
