"""The schema of conf/: which keys there are, of which type, and within which bounds.

Their values and explanations stand in conf/*.yaml; a key without a default here has its value there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from alignment.settings import evaluation_schema, method_schema
from alignment.settings.value_rules import at_least, one_of
from alignment.types import Layout

_PACKAGE = Path(__file__).resolve().parent.parent


def _beside(name: str) -> Path:
    """The folder of that name: in a wheel it is part of the package, in a checkout it stands beside it."""
    return next(folder for folder in (_PACKAGE / name, _PACKAGE.parent / name) if folder.is_dir())


CONF_DIR, LAUNCH_DIR = _beside("conf"), _beside("launch")


@dataclass
class Run:
    dir: str
    plan: bool
    stage: str | None
    replace: bool
    tracking: list[str]
    workers: int | None = at_least(1)


@dataclass
class InlineLaunch:
    name: str
    timeout_seconds: int = at_least(5)
    gpu_memory_gb: float | None = at_least(1)


@dataclass
class LocalLaunch(InlineLaunch):
    processes: int | None = at_least(1)


@dataclass
class SlurmLaunch(LocalLaunch):
    layout: str = one_of(Layout)
    nodes: int = at_least(1)
    gpus: int = at_least(0)
    cpus: int | None = at_least(1)
    time: str | None
    partition: str | None
    account: str | None
    directives: list[str]
    modules: list[str]
    setup: list[str]
    environment: list[str]
    container: str | None
    python: str | None
    grace_seconds: int = at_least(1)
    restarts: int = at_least(0)
    submit: bool


@dataclass
class Config:
    recipe: str
    stages: list[str]
    seed: int
    run: Run
    launch: Any
    model: method_schema.Model
    data: Any
    annotator: method_schema.Annotator
    reward_model: method_schema.RewardModel
    trainer: method_schema.Trainer
    lora: Any
    reward: method_schema.Reward
    states: method_schema.States
    guard: method_schema.Guard
    sampling: method_schema.Sampling
    build_pairs: method_schema.BuildPairs
    best_of_n: method_schema.BestOfN
    confidence: method_schema.Confidence
    policy: method_schema.Policy
    packing: Any
    judge: evaluation_schema.Judge
    evaluation: evaluation_schema.Evaluation
    scorecard: evaluation_schema.Scorecard
    compare: evaluation_schema.Compare


def seeds_for(model: str) -> list[int]:
    """Of a small model five, for an interval; of a large one, whose trainings are long, one."""
    return [0, 1, 2, 3, 4] if model == "world" else [0]


def gate_for(model: str) -> str:
    """Of a hybrid reward: the gate that is best on real models, and that of the world's published figures."""
    return "sigmoid_scores" if model == "world" else "static_softmax"


def register() -> None:
    """Tells Hydra the schema; conf/ files name it in their defaults."""
    store = ConfigStore.instance()
    store.store("schema", Config)
    launches = {"launch/inline": InlineLaunch, "launch/local": LocalLaunch, "launch/slurm": SlurmLaunch}
    for name, node in (launches | method_schema.GROUPS | evaluation_schema.GROUPS).items():
        group, _, option = name.partition("/")
        store.store(f"{option}_schema", node, group=group)
    OmegaConf.register_new_resolver("seeds_for", seeds_for, replace=True)
    OmegaConf.register_new_resolver("gate_for", gate_for, replace=True)
    # For --help Hydra copies the whole store for every group, which takes two seconds; what it loads is a copy anyhow.
    store.__deepcopy__ = lambda memo: store
