"""Fingerprints of the things outside a run folder that may shape a stage: a name and a function for each.

A stage lists the names of those that shape its result (`Stage.inputs`), and is made anew when a fingerprint differs.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alignment.data import contrast as contrast_data
from alignment.data import labelled_contrast
from alignment.data.guard_answers import guard_files
from alignment.data.labelled_sets import labelled_files
from alignment.data.pair_corrections import digest, in_words
from alignment.data.places import files_of
from alignment.data.prompt_sets import prompt_files
from alignment.inputs import pairs
from alignment.inputs.compared import runs_hash
from alignment.inputs.reward_pairs import reward_pairs_hash
from alignment.inputs.transfer import transfer_files
from alignment.inputs.validated import validation_hash
from alignment.judges.choice import chosen as chosen_judges
from alignment.judges.choice import judges_by, version
from alignment.models.source import model_source, source_at
from alignment.runs.manifest import hash_file, hash_folder
from alignment.runs.ranks import has_accelerator
from alignment.types import UserError
from alignment.world.identity import generator_hash

JOBS_DEVICE = "REPALIGN_DEVICE"  # set in Slurm's jobs: the device of those that have one, in those that have none, too


def fingerprint(name: str, cfg: DictConfig) -> str:
    """The fingerprint of the thing that the settings have under this name; empty if they have none."""
    return FINGERPRINTS[name](cfg)


def device_of(cfg: DictConfig, trains: str | None) -> str:
    """What a stage with a model computes on, and in which precision it trains. trains: the group of its trainings.

    For Slurm's jobs it is what most of them are given: some have no device, and the login node has another one. Their
    GPUs are taken for ones that have bfloat16, as in a plan of memory.
    """
    jobs = os.environ.get(JOBS_DEVICE)
    if cfg.launch.name == "slurm":
        jobs = "GPU" if cfg.launch.gpus else "CPU"
    elif cfg.launch.gpu_memory_gb is not None:  # a plan for another machine
        jobs = "GPU"
    device = jobs or ("GPU" if has_accelerator() else "CPU")
    if trains is None:
        return device
    precision = cfg[trains].precision
    if precision == "auto" and device == "GPU" and jobs is None:
        from alignment.models.devices import training_dtype

        precision = training_dtype(precision)
    elif precision == "auto":
        precision = "bfloat16" if device == "GPU" else "float32"
    return f"{device} {precision}"


def _model(cfg: DictConfig) -> str:
    template = cfg.model.chat_template
    weights = model_source(cfg.model).fingerprint
    return weights if template is None else f"{weights} {_file_hash('model.chat_template', template)}"


def _questions(cfg: DictConfig) -> str:
    """The contrastive set, or the questions that its answers are generated to, with a user's own refusals."""
    contrast = cfg.annotator.contrast
    if contrast.file is not None:
        return _file_hash("annotator.contrast.file", contrast.file)
    if contrast.labelled is not None:
        return f"{_labelled(contrast.labelled, cfg)} {_annotated(cfg)} {_hashes(transfer_files(cfg))}"
    own = {contrast.positive, contrast.negative} & {"refusals"} and contrast.refusals is not None
    refusals = f" {_file_hash('annotator.contrast.refusals', contrast.refusals)}" if own else ""
    return _asked(cfg, contrast) + refusals


def _labelled(source: str, cfg: DictConfig) -> str:
    if labelled_contrast.is_file(source):
        return _file_hash(labelled_contrast.KEY, source)
    return _hashes(labelled_contrast.answer_files(source, cfg.data.get("folder")))


def _annotated(cfg: DictConfig) -> str:
    """The pairs whose prompts are set aside from labelled answers."""
    settings = json.dumps({**OmegaConf.to_container(cfg.data, resolve=True), "folder": None}, sort_keys=True)
    return hashlib.sha256(f"{settings} {fingerprint('data', cfg)}".encode()).hexdigest()


def _asked(cfg: DictConfig, contrast: DictConfig) -> str:
    world = cfg.data.name == "world"
    if world and contrast.questions in contrast_data.QUESTIONS:
        return generator_hash()
    files = [] if world else contrast_data.question_files(contrast.questions, cfg.data.folder)
    return _hashes(files) or _file_hash("annotator.contrast.questions", contrast.questions)


def _prompt_files(cfg: DictConfig) -> list[Path]:
    return [
        file for name in cfg.evaluation.sets if name != "data" for file in prompt_files(name, cfg.evaluation.folder)
    ]


def _evaluation_prompts(cfg: DictConfig) -> str:
    """The files whose prompts nothing may learn from."""
    return hashlib.sha256("".join(map(hash_file, _prompt_files(cfg))).encode()).hexdigest()


def _evaluation_sets(cfg: DictConfig) -> str:
    """The files of all that is evaluated on beside the data's own prompts; sets on the hub are downloaded for it."""
    card, files = cfg.scorecard, _prompt_files(cfg)
    if card.mmlu.questions:
        files += [file for split in ("dev", "test") for file in files_of("mmlu", cfg.evaluation.folder, split)]
    files += files_of("rewardbench", cfg.evaluation.folder) if "rewardbench" in card.rankings else []
    hashes = [hash_file(file) for file in files]
    hashes += [_file_hash("scorecard.rankings", file) for file in card.rankings if file != "rewardbench"]
    if card.lm_eval.tasks and Path(card.lm_eval.include_path).is_dir():
        hashes.append(hash_folder(Path(card.lm_eval.include_path)))
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _labelled_answers(cfg: DictConfig) -> str:
    """The files of the answers that a guard is fitted on, and tried on."""
    settings = cfg.guard
    sources = [*settings.answers, *settings.harmless, *settings.transfer]
    return _hashes(file for source in sources for file in guard_files(source, cfg.judge.folder))


def _judges(cfg: DictConfig) -> str:
    """The weights of the judges that have some, but for those that a stage of the run makes."""
    names = chosen_judges(cfg.judge)
    own = judges_by(cfg.judge, names, (Path(cfg.run.dir) / "fit_guard").resolve())
    versions = {name: version(name, cfg.judge[name]) for name in names if name not in own}
    return " ".join(f"{name} {known}" for name, known in versions.items() if known is not None)


def _labels(cfg: DictConfig) -> str:
    """The answers labelled by people that judges are checked against."""
    labels = cfg.judge.calibration
    if not labels:
        return ""
    if Path(labels).suffix:
        return _file_hash("judge.calibration", labels)
    return _hashes(labelled_files(labels, cfg.judge.folder))


def _corrected(cfg: DictConfig) -> str:
    """What corrections of the data there are, in words, and a hash of them; nothing where there are none."""
    corrections = pairs.corrections_of(cfg)
    return f"; corrected: {in_words(corrections)} ({digest(corrections)})" if corrections else ""


def _local_model(key: str, path: str | None) -> str:
    return "" if path is None else source_at(path, key).fingerprint


def _file_hash(key: str, path: str) -> str:
    if not Path(path).is_file():
        remedy = "check the path; relative ones start where the command was given"
        raise UserError(key, f"there is no file {path}", remedy)
    return hash_file(Path(path))


def _hashes(files: Iterable[Path]) -> str:
    return " ".join(map(hash_file, files))


FINGERPRINTS: dict[str, Callable[[DictConfig], str]] = {
    "model": _model,
    "data": lambda cfg: f"{generator_hash() if cfg.data.name == 'world' else pairs.fingerprint(cfg)}{_corrected(cfg)}",
    "reward pairs": reward_pairs_hash,
    "transfer": lambda cfg: _hashes(transfer_files(cfg)),
    "questions": _questions,
    "after": lambda cfg: _local_model("scorecard.after", cfg.scorecard.after),
    "scorer": lambda cfg: _local_model("scorecard.reward_model", cfg.scorecard.reward_model),
    "asked": _evaluation_sets,
    "evaluation prompts": _evaluation_prompts,
    "validation": lambda cfg: f"{hashed} {_judges(cfg)}" if (hashed := validation_hash(cfg)) else "",
    "answers": lambda cfg: _file_hash("judge.input", cfg.judge.input),
    "labelled answers": _labelled_answers,
    "judges": _judges,
    "labels": _labels,
    "compared runs": runs_hash,
}
