"""The schema of the methods: model, data, annotation, rewards, samples and trainings."""

from dataclasses import dataclass, field
from typing import Any

from alignment import types
from alignment.settings.value_rules import at_least, between, one_of
from alignment.world.preferences import NOISE

# ---- model and data -------------------------------------------------------------------------------------------------


@dataclass
class Model:
    name: str
    path: str | None
    gguf_file: str | None
    dtype: str = one_of(types.Dtype)
    chat_template: str | None
    thinking: bool
    answer_tokens: int


@dataclass
class WorldData:
    name: str
    pairs: int = at_least(10)
    heldout: int = at_least(10)
    evaluation: int = at_least(10)
    noise: float
    noise_kind: str = one_of(NOISE)
    length: float = between(0, 1)
    double_edged: float = between(0, 1)
    corrections: str | None
    seed: int


@dataclass
class PairsData:
    name: str
    heldout: float = between(0.01, 0.5)
    rows: int | None = at_least(10)
    corrections: str | None
    keep_out: Any
    folder: str
    seed: int


@dataclass
class FileData(PairsData):
    path: str
    heldout_path: str | None
    columns: Any


@dataclass
class SetData(PairsData):
    path: str | None
    split: str | None


@dataclass
class RankedData(SetData):
    preference: str = one_of(types.Preference)


@dataclass
class Part:
    set: str
    weight: float = 1.0
    path: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    preference: str | None = None


@dataclass
class MixtureData(PairsData):
    parts: list[Part]


# ---- annotation -----------------------------------------------------------------------------------------------------


@dataclass
class Contrast:
    questions: str
    count: int = at_least(10)
    positive: str = one_of(types.ContrastAnswer)
    negative: str = one_of(types.ContrastAnswer)
    refusal: str
    refusals: str | None
    system_prompt: str
    max_new_tokens: int = at_least(1)
    match_length: bool
    labelled: str | None
    file: str | None


@dataclass
class Bins:
    method: str = one_of(types.BinningMethod)
    bins: int = between(2, 100)
    low: float
    high: float
    negative: str = one_of(types.NegativeMargins)


@dataclass
class Annotator:
    name: str
    contrast: Contrast
    direction: str = one_of(types.DirectionKind)
    layer: Any
    labels: int | None = at_least(10)
    pooling: str = one_of(types.Pooling)
    prompt: str = one_of(types.PromptFormat)
    joiner_induced: str
    joiner_pairs: str
    scope: str = one_of(types.Scope)
    binning: Bins
    max_length: int = at_least(8)
    batch_tokens: int = at_least(1)


# ---- trainings ------------------------------------------------------------------------------------------------------


@dataclass
class Training:
    """Keys that all trainings share, in TRL's names but for those that conf/ marks "ours"."""

    batch_size: int = at_least(1)
    per_device_batch_size: int | None = at_least(1)
    precision: str = one_of(types.Precision)
    lr_scheduler_type: str = one_of(types.Scheduler)
    warmup_steps: float = at_least(0)
    num_train_epochs: float = at_least(0.001)
    max_steps: int
    weight_decay: float = at_least(0)
    max_grad_norm: float = at_least(0)
    max_length: int = at_least(8)
    save_dtype: str = one_of(types.Dtype)
    activation_checkpointing: bool
    without_router_loss: bool
    logging_steps: int = at_least(1)
    save_steps: int = at_least(1)


@dataclass
class Trainer(Training):
    """The training of a reward model, in RewardConfig's names."""

    learning_rate: float = between(0, 1)
    center_rewards_coefficient: float | None
    upper_blocks: int | None = at_least(1)


@dataclass
class Policy(Training):
    """The training of policies, in DPOConfig's names; systems, seeds and grid_seeds are ours."""

    systems: list[str]
    seeds: list[int]
    grid_seeds: int
    beta: list[float]
    learning_rate: list[float]
    precompute_ref_log_probs: bool


@dataclass
class RewardModel:
    margins: list[str]
    ensemble: int = at_least(2)
    seeds: list[int]
    control_seeds: int | None = at_least(1)
    transfer: list[str]


@dataclass
class NameAlone:
    """An option without keys of its own: no adapters, no packing."""

    name: str


@dataclass
class Adapters:
    name: str
    r: int = at_least(1)
    alpha: int = at_least(1)
    dropout: float = between(0, 1)
    target_modules: Any


@dataclass
class Confidence:
    name: str
    source: str = one_of(types.ConfidenceSource)
    alpha: float = at_least(0.001)
    refit: str = one_of(types.Refit)
    refit_margin: float = at_least(0)
    refit_learning_rate: float = at_least(1e-9)
    refit_weight_decay: float = at_least(0)


@dataclass
class AutoPacking:
    name: str
    max_tokens: int = at_least(1)


# ---- rewards and samples --------------------------------------------------------------------------------------------


@dataclass
class Reward:
    gate: str = one_of(types.Gate)
    pooling: str = one_of(types.Pooling)
    margin: float = between(0, 10)
    path: str | None
    pairs: int = at_least(20)
    folds: int = between(2, 100)
    max_length: int = at_least(8)
    batch_tokens: int = at_least(1)


@dataclass
class Guard:
    answers: list[str]
    harmless: list[str]
    transfer: list[str]
    fit: str = one_of(types.GuardFit)
    count: int = at_least(100)
    layers: Any
    topic: float = at_least(0)
    threshold: Any
    false_alarms: float | None = between(0, 1)
    folds: int = between(3, 100)
    max_length: int = at_least(8)
    batch_tokens: int = at_least(1)


@dataclass
class States:
    keep: str = one_of(types.KeepStates)


@dataclass
class Sampling:
    name: str
    n: int = between(1, 1000)
    temperature: float | None = between(0.01, 100)
    top_k: int | None = at_least(0)
    top_p: float | None = between(0.001, 1)
    repetition_penalty: float | None = between(0.1, 10)
    max_new_tokens: int = at_least(1)
    batch_tokens: int = at_least(1)


@dataclass
class BuildPairs:
    scorer: str = one_of(types.Scorer)
    reward_model: str = one_of(types.Margins)
    pairing: str = one_of(types.Pairing)
    prompts: int | None = at_least(1)
    temperature: float | None = at_least(0.01)
    unfinished: Any


@dataclass
class BestOfN:
    counts: list[int]
    scorers: list[str]


GROUPS = {
    "model/model": Model,
    "data/world": WorldData, "data/file": FileData, "data/set": SetData, "data/ranked": RankedData,
    "data/mixture": MixtureData,
    "lora/none": NameAlone, "lora/adapters": Adapters,
    "packing/auto_packing": AutoPacking, "packing/no_packing": NameAlone,
    "confidence/confidence": Confidence, "policy/policy": Policy,
    "sampling/sampling": Sampling, "reward/reward": Reward, "guard/guard": Guard,
}  # fmt: skip
