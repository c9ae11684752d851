"""The schema of evaluations: what is evaluated, by which judges, and with which thresholds."""

from dataclasses import dataclass
from typing import Any

from alignment.settings.value_rules import at_least, between, one_of
from alignment.types import ClassifierInput, Dtype


@dataclass
class Evaluation:
    prompts: int = at_least(2)
    validation: int = at_least(2)
    validation_sets: list[str] | None
    sets: list[str] | None
    system_prompt: str
    folder: str


@dataclass
class Mmlu:
    questions: int = at_least(0)
    shots: int = between(0, 5)


@dataclass
class LmEval:
    tasks: list[str]
    include_path: str | None


@dataclass
class Gate:
    max_toxic_rate: float | None = between(0, 1)
    max_toxic_increase: float | None = between(-1, 1)
    max_over_refusal: float | None = between(0, 1)
    max_over_refusal_increase: float | None = between(-1, 1)
    max_unparsed: float | None = between(0, 1)
    min_helpful_rate: float | None = between(0, 1)
    min_mmlu: float | None = between(0, 1)
    min_mmlu_change: float | None = between(-1, 1)
    min_ranked_right: float | None = between(0, 1)


@dataclass
class Scorecard:
    before: str | None
    after: str | None
    reward_model: str | None
    rankings: list[str]
    mmlu: Mmlu
    lm_eval: LmEval
    usefulness: bool
    pairwise: bool
    gate: Gate


@dataclass
class NamedJudge:
    name: str


@dataclass
class GuardJudge:
    name: str
    path: str
    dtype: str = one_of(Dtype)
    batch_tokens: int = at_least(1)
    threshold: float | None = between(0, 1)


@dataclass
class ClassifierJudge:
    name: str
    path: str
    dtype: str = one_of(Dtype)
    unsafe_label: str
    reads: str = one_of(ClassifierInput)
    batch_tokens: int = at_least(1)
    threshold: float = between(0, 1)


@dataclass
class WordsJudge:
    name: str
    path: str


@dataclass
class ProbeJudge:
    name: str
    path: str
    model: str | None
    gguf_file: str | None
    chat_template: str | None
    packing: Any
    dtype: str = one_of(Dtype)
    batch_tokens: int = at_least(1)
    threshold: float | None = between(0, 1)


@dataclass
class ApiJudge:
    name: str
    url: str
    model: str
    key_variable: str | None
    cache: str | None
    max_tokens: int = at_least(1)
    price_in: float = at_least(0)
    price_out: float = at_least(0)
    budget: float | None = at_least(0)
    requests_per_minute: float | None = at_least(0.001)
    concurrency: int = between(1, 1000)
    timeout_seconds: float = at_least(0.1)
    tries: int = between(1, 100)


@dataclass
class Compare:
    runs: list[str]


@dataclass
class Judge:
    """The keys of every judging, and a block for each judge that is chosen."""

    input: str | None
    columns: Any
    output: str | None
    calibration: str | None
    calibration_rows: int | None = at_least(10)
    position_pairs: int = at_least(0)
    minimum_agreement: float | None = between(0, 1)
    folder: str
    oracle: Any = None
    refusal: Any = None
    refusal_in_context: Any = None
    llama_guard_2: Any = None
    llama_guard_3: Any = None
    md_judge: Any = None
    shieldgemma: Any = None
    wildguard: Any = None
    classifier: Any = None
    words: Any = None
    probe: Any = None
    api: Any = None


GROUPS = {
    "judge/judge": NamedJudge, "judge/guard": GuardJudge, "judge/classifier": ClassifierJudge, "judge/api": ApiJudge,
    "judge/words": WordsJudge, "judge/probe": ProbeJudge,
}  # fmt: skip
