"""The schema of conf/: what keys there are, and of what type. Their values and explanations live in conf/*.yaml."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

_PACKAGE = Path(__file__).resolve().parent.parent


def _beside(name: str) -> Path:
    """In a wheel it is part of the package, in a checkout it stands beside it."""
    return next(folder for folder in (_PACKAGE / name, _PACKAGE.parent / name) if folder.is_dir())


CONF_DIR, LAUNCH_DIR = _beside("conf"), _beside("launch")


@dataclass
class Run:
    dir: str = MISSING
    plan: bool = MISSING
    stage: str | None = MISSING
    workers: int | None = MISSING
    tracking: str = MISSING


@dataclass
class InlineLaunch:
    name: str = MISSING
    timeout_seconds: int = MISSING


@dataclass
class LocalLaunch(InlineLaunch):
    processes: int | None = MISSING


@dataclass
class SlurmLaunch(LocalLaunch):
    layout: str = MISSING
    nodes: int = MISSING
    gpus: int = MISSING
    cpus: int | None = MISSING
    gpu_memory_gb: float | None = MISSING
    time: str | None = MISSING
    partition: str | None = MISSING
    account: str | None = MISSING
    directives: list[str] = MISSING
    modules: list[str] = MISSING
    setup: list[str] = MISSING
    environment: list[str] = MISSING
    container: str | None = MISSING
    python: str | None = MISSING
    grace_seconds: int = MISSING
    restarts: int = MISSING
    submit: bool = MISSING


@dataclass
class WorldModel:
    name: str = MISSING
    answer_tokens: int = MISSING


@dataclass
class LocalModel:
    name: str = MISSING
    path: str | None = MISSING
    dtype: str = MISSING
    chat_template: str | None = MISSING
    thinking: bool = MISSING
    answer_tokens: int = MISSING


@dataclass
class WorldData:
    name: str = MISSING
    pairs: int = MISSING
    heldout: int = MISSING
    evaluation: int = MISSING
    noise: float = MISSING
    noise_kind: str = MISSING
    length: float = MISSING
    double_edged: float = MISSING
    seed: int = MISSING


@dataclass
class PairsData:
    name: str = MISSING
    heldout: float = MISSING
    rows: int | None = MISSING
    keep_out: Any = MISSING
    folder: str = MISSING
    seed: int = MISSING


@dataclass
class FileData(PairsData):
    path: str = MISSING
    columns: Any = MISSING


@dataclass
class SetData(PairsData):
    path: str | None = MISSING
    split: str | None = MISSING


@dataclass
class RankedData(SetData):
    preference: str = MISSING


@dataclass
class Part:
    set: str = MISSING
    weight: float = 1.0
    path: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    preference: str | None = None


@dataclass
class MixtureData(PairsData):
    parts: list[Part] = MISSING


@dataclass
class Contrast:
    questions: str = MISSING
    count: int = MISSING
    positive: str = MISSING
    negative: str = MISSING
    refusal: str = MISSING
    max_new_tokens: int = MISSING
    file: str | None = MISSING


@dataclass
class Bins:
    method: str = MISSING
    bins: int = MISSING
    low: float = MISSING
    high: float = MISSING
    negative: str = MISSING


@dataclass
class Annotator:
    name: str = MISSING
    contrast: Contrast = field(default_factory=Contrast)
    direction: str = MISSING
    layer: Any = MISSING
    pooling: str = MISSING
    prompt: str = MISSING
    joiner_induced: str = MISSING
    joiner_pairs: str = MISSING
    scope: str = MISSING
    binning: Bins = field(default_factory=Bins)
    max_length: int = MISSING
    batch_tokens: int = MISSING


@dataclass
class NoAdapters:
    name: str = MISSING


@dataclass
class Adapters:
    name: str = MISSING
    r: int = MISSING
    alpha: int = MISSING
    dropout: float = MISSING
    target_modules: Any = MISSING


@dataclass
class Trainer:
    """TRL's and Trainer's own names; three are ours: batch_size, per_device_batch_size, precision."""

    batch_size: int = MISSING
    per_device_batch_size: int | None = MISSING
    precision: str = MISSING
    learning_rate: float = MISSING
    lr_scheduler_type: str = MISSING
    warmup_steps: float = MISSING
    num_train_epochs: float = MISSING
    max_steps: int = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    max_length: int = MISSING
    activation_checkpointing: bool = MISSING
    center_rewards_coefficient: float | None = MISSING
    logging_steps: int = MISSING
    save_steps: int = MISSING


@dataclass
class RewardModel:
    margins: list[str] = MISSING
    seeds: list[int] = MISSING


@dataclass
class Reward:
    gate: str = MISSING
    pooling: str = MISSING
    margin: float = MISSING
    pairs: int = MISSING
    max_length: int = MISSING
    batch_tokens: int = MISSING


@dataclass
class Sampling:
    name: str = MISSING
    n: int = MISSING
    temperature: float = MISSING
    top_k: int = MISSING
    top_p: float = MISSING
    repetition_penalty: float = MISSING
    max_new_tokens: int = MISSING
    batch_tokens: int = MISSING


@dataclass
class BuildPairs:
    scorer: str = MISSING
    reward_model: str = MISSING
    pairing: str = MISSING
    prompts: int | None = MISSING
    unfinished: bool = MISSING


@dataclass
class BestOfN:
    counts: list[int] = MISSING
    scorers: list[str] = MISSING


@dataclass
class Policy:
    """DPOConfig's own names; ours are systems, seeds, grid_seeds, batch_size, per_device_batch_size and precision."""

    systems: list[str] = MISSING
    seeds: list[int] = MISSING
    grid_seeds: int = MISSING
    beta: list[float] = MISSING
    learning_rate: list[float] = MISSING
    batch_size: int = MISSING
    per_device_batch_size: int | None = MISSING
    precision: str = MISSING
    lr_scheduler_type: str = MISSING
    warmup_steps: float = MISSING
    num_train_epochs: float = MISSING
    max_steps: int = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    max_length: int = MISSING
    activation_checkpointing: bool = MISSING
    precompute_ref_log_probs: bool = MISSING
    logging_steps: int = MISSING
    save_steps: int = MISSING


@dataclass
class Confidence:
    name: str = MISSING
    source: str = MISSING
    alpha: float = MISSING
    refit: str = MISSING
    refit_margin: float = MISSING
    refit_learning_rate: float = MISSING
    refit_weight_decay: float = MISSING


@dataclass
class AutoPacking:
    name: str = MISSING
    max_tokens: int = MISSING


@dataclass
class NoPacking:
    name: str = MISSING


@dataclass
class Evaluation:
    prompts: int = MISSING
    validation: int = MISSING
    sets: list[str] | None = MISSING
    folder: str = MISSING


@dataclass
class Mmlu:
    questions: int = MISSING
    shots: int = MISSING


@dataclass
class LmEval:
    tasks: list[str] = MISSING
    include_path: str | None = MISSING


@dataclass
class Gate:
    max_toxic_rate: float | None = MISSING
    max_toxic_increase: float | None = MISSING
    max_over_refusal: float | None = MISSING
    max_over_refusal_increase: float | None = MISSING
    max_unparsed: float | None = MISSING
    min_helpful_rate: float | None = MISSING
    min_mmlu: float | None = MISSING
    min_mmlu_change: float | None = MISSING
    min_ranked_right: float | None = MISSING


@dataclass
class Scorecard:
    before: str | None = MISSING
    after: str | None = MISSING
    reward_model: str | None = MISSING
    rankings: list[str] = MISSING
    mmlu: Mmlu = field(default_factory=Mmlu)
    lm_eval: LmEval = field(default_factory=LmEval)
    gate: Gate = field(default_factory=Gate)


@dataclass
class NamedJudge:
    name: str = MISSING


@dataclass
class GuardJudge:
    name: str = MISSING
    path: str = MISSING
    dtype: str = MISSING
    batch_tokens: int = MISSING
    threshold: float | None = MISSING


@dataclass
class ClassifierJudge:
    name: str = MISSING
    path: str = MISSING
    dtype: str = MISSING
    unsafe_label: str = MISSING
    reads: str = MISSING
    batch_tokens: int = MISSING
    threshold: float = MISSING


@dataclass
class ApiJudge:
    name: str = MISSING
    url: str = MISSING
    model: str = MISSING
    key_variable: str | None = MISSING
    cache: str | None = MISSING
    max_tokens: int = MISSING
    price_in: float = MISSING
    price_out: float = MISSING
    budget: float | None = MISSING
    requests_per_minute: float | None = MISSING
    concurrency: int = MISSING
    timeout_seconds: float = MISSING
    tries: int = MISSING


@dataclass
class Judge:
    """Keys for whatever is judged, and a block for each judge that was chosen."""

    input: str | None = MISSING
    output: str | None = MISSING
    calibration: str | None = MISSING
    calibration_rows: int | None = MISSING
    position_pairs: int = MISSING
    minimum_agreement: float | None = MISSING
    folder: str = MISSING
    oracle: Any = None
    refusal: Any = None
    llama_guard_2: Any = None
    llama_guard_3: Any = None
    md_judge: Any = None
    shieldgemma: Any = None
    wildguard: Any = None
    classifier: Any = None
    api: Any = None


@dataclass
class Config:
    recipe: str = MISSING
    stages: list[str] = MISSING
    seed: int = MISSING
    run: Run = field(default_factory=Run)
    launch: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    annotator: Annotator = field(default_factory=Annotator)
    reward_model: RewardModel = field(default_factory=RewardModel)
    trainer: Trainer = field(default_factory=Trainer)
    lora: Any = MISSING
    reward: Reward = field(default_factory=Reward)
    sampling: Sampling = field(default_factory=Sampling)
    build_pairs: BuildPairs = field(default_factory=BuildPairs)
    best_of_n: BestOfN = field(default_factory=BestOfN)
    confidence: Confidence = field(default_factory=Confidence)
    policy: Policy = field(default_factory=Policy)
    packing: Any = MISSING
    judge: Judge = field(default_factory=Judge)
    evaluation: Evaluation = field(default_factory=Evaluation)
    scorecard: Scorecard = field(default_factory=Scorecard)


def register() -> None:
    """Tells Hydra the schema; conf/ files name it in their defaults."""
    store = ConfigStore.instance()
    store.store("schema", Config)
    for group, name, node in [
        ("launch", "inline", InlineLaunch),
        ("launch", "local", LocalLaunch),
        ("launch", "slurm", SlurmLaunch),
        ("model", "world", WorldModel),
        ("model", "local", LocalModel),
        ("data", "world", WorldData),
        ("data", "file", FileData),
        ("data", "set", SetData),
        ("data", "ranked", RankedData),
        ("data", "mixture", MixtureData),
        ("lora", "none", NoAdapters),
        ("lora", "adapters", Adapters),
        ("packing", "auto_packing", AutoPacking),
        ("packing", "no_packing", NoPacking),
        ("confidence", "confidence", Confidence),
        ("policy", "policy", Policy),
        ("sampling", "sampling", Sampling),
        ("reward", "reward", Reward),
        ("judge", "judge", NamedJudge),
        ("judge", "guard", GuardJudge),
        ("judge", "classifier", ClassifierJudge),
        ("judge", "api", ApiJudge),
    ]:
        store.store(f"{name}_schema", node, group=group)
    # --help lists every group, and Hydra copies the whole store for each: two seconds. What it loads is a copy anyhow.
    store.__deepcopy__ = lambda memo: store
