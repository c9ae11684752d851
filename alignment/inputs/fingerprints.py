"""What the things outside a run folder were when a plan was made: one name, and one function, for each that may matter.

A stage lists the names of what shapes its result (`Stage.inputs`); a stage is made anew when a fingerprint differs.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from alignment.data import contrast as contrast_data
from alignment.data.labelled_sets import labelled_files
from alignment.data.places import files_of
from alignment.inputs import pairs
from alignment.judges.choice import chosen as chosen_judges
from alignment.models.source import model_source, source_at
from alignment.runs.manifest import hash_file, hash_folder
from alignment.types import UserError
from alignment.world.identity import generator_hash


def fingerprint(what: str, cfg: DictConfig) -> str:
    """Of the thing that these settings mean by the name; empty if they name none."""
    return FINGERPRINTS[what](cfg)


def _model(cfg: DictConfig) -> str:
    template = cfg.model.chat_template
    weights = model_source(cfg.model).fingerprint
    return weights if template is None else f"{weights} {_file_hash('model.chat_template', template)}"


def _data(cfg: DictConfig) -> str:
    return generator_hash() if cfg.data.name == "world" else pairs.fingerprint(cfg)


def _questions(cfg: DictConfig) -> str:
    """Of the contrastive set, or of the questions that it is generated to."""
    contrast = cfg.annotator.contrast
    if contrast.file is not None:
        return _file_hash("annotator.contrast.file", contrast.file)
    if cfg.data.name == "world" and contrast.questions in contrast_data.QUESTIONS:
        return generator_hash()
    files = [] if cfg.data.name == "world" else contrast_data.question_files(contrast.questions, cfg.data.folder)
    if files:
        return " ".join(hash_file(file) for file in files)
    return _file_hash("annotator.contrast.questions", contrast.questions)


def _after(cfg: DictConfig) -> str:
    return _local_model("scorecard.after", cfg.scorecard.after)


def _scorer(cfg: DictConfig) -> str:
    return _local_model("scorecard.reward_model", cfg.scorecard.reward_model)


def _asked(cfg: DictConfig) -> str:
    """Of the files of all that is asked beside the data's own prompts; hub sets are downloaded for it."""
    card = cfg.scorecard
    files = [file for name in cfg.evaluation.sets if name != "data" for file in files_of(name, cfg.evaluation.folder)]
    if card.mmlu.questions:
        files += [file for split in ("dev", "test") for file in files_of("mmlu", cfg.evaluation.folder, split)]
    files += files_of("rewardbench", cfg.evaluation.folder) if "rewardbench" in card.rankings else []
    hashes = [hash_file(file) for file in files]
    hashes += [_file_hash("scorecard.rankings", file) for file in card.rankings if file != "rewardbench"]
    if card.lm_eval.tasks and Path(card.lm_eval.include_path).is_dir():
        hashes.append(hash_folder(Path(card.lm_eval.include_path)))
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _answers(cfg: DictConfig) -> str:
    return _file_hash("judge.input", cfg.judge.input)


def _judges(cfg: DictConfig) -> str:
    """Of those that have weights."""
    paths = {name: cfg.judge[name].get("path") for name in chosen_judges(cfg.judge)}
    return " ".join(
        f"{name} {_local_model(f'judge.{name}.path', path)}" for name, path in paths.items() if path is not None
    )


def _labels(cfg: DictConfig) -> str:
    """Of the answers people labelled, which judges are held against."""
    named = cfg.judge.calibration or ""
    if not named or Path(named).suffix:
        return _file_hash("judge.calibration", named) if named else ""
    return " ".join(hash_file(file) for file in labelled_files(named, cfg.judge.folder))


def _local_model(key: str, path: str | None) -> str:
    return "" if path is None else source_at(path, key).fingerprint


def _file_hash(key: str, path: str) -> str:
    if not Path(path).is_file():
        raise UserError(
            key, f"there is no file {path}", "check the path; relative ones start where the command was given"
        )
    return hash_file(Path(path))


FINGERPRINTS: dict[str, Callable[[DictConfig], str]] = {
    "model": _model,
    "data": _data,
    "questions": _questions,
    "after": _after,  # the model that a scorecard holds against the one before
    "scorer": _scorer,  # its reward model
    "asked": _asked,
    "answers": _answers,
    "judges": _judges,
    "labels": _labels,
}
