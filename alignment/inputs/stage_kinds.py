"""What is known of a stage before it runs: what shapes its result, what it reads, what it does with the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from omegaconf import DictConfig

from alignment.inputs.fingerprints import FINGERPRINTS
from alignment.inputs.validated import is_chosen_by_judges

Estimate = Literal[
    "read_states", "induce", "annotate", "fit_reward", "read_answers", "build_pairs", "evaluate", "best_of_n"
]


@dataclass(frozen=True)
class Trains:
    """What a stage does that trains the model.

    settings: the group of its trainings; `trainer` is that of reward models, `policy` that of the policies.
    chosen_only: does it learn from the chosen answers alone, and not from both of a pair?
    reference: does it hold a copy of the untrained model, where all weights are trained and the log-probabilities
    under that model were not computed beforehand?
    live_reward: does it keep the states of answers and re-fit the reward on them, unless confidences are a column?
    """

    settings: Literal["trainer", "policy"]
    chosen_only: bool = False
    reference: bool = False
    live_reward: bool = False


@dataclass(frozen=True)
class Infers:
    """What a stage does that reads texts with the model, or samples them, and trains nothing.

    estimate: the estimate of memory/estimates.py that holds for it, by the name of the stage that it was written for;
    None: there is none, and a plan says so.
    batch_tokens: the key that says how many tokens a batch has, the fewer the less memory; None: there is none.
    samples: does the model write answers, so that it may think before them?
    """

    estimate: Estimate | None
    batch_tokens: str | None
    samples: bool = False

    def __post_init__(self) -> None:
        if self.estimate not in (None, *get_args(Estimate)):
            known = ", ".join(get_args(Estimate))
            raise ValueError(f"memory/estimates.py has no estimate {self.estimate!r}; it has {known}")


@dataclass(frozen=True)
class Stage:
    """What is known of a stage. does: that in words, as a run says it.

    config: the keys that shape the result; a group stands for all its keys. world: more of them, where the data are the
    world's; judged: where judges choose the point of a grid.
    reads: the stages whose files it needs; only: the names of those that it reads under given settings (None: all).
    inputs: the things outside the run whose content shapes the result, by their names in inputs/fingerprints.py.
    model: what it does with the model of the run; said by the stages that have it among their inputs.
    alone: it has no work for ranks, and runs in one process whatever the launch.
    """

    does: str
    config: tuple[str, ...]
    reads: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    model: Trains | Infers | None = None
    only: Callable[[DictConfig], set[str]] | None = None
    alone: bool = False
    world: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ValueError for what nothing could make sense of, so that a new stage says what it is."""
        if unknown := [name for name in self.inputs if name not in FINGERPRINTS]:
            known = ", ".join(FINGERPRINTS)
            raise ValueError(f"inputs/fingerprints.py has no fingerprint {unknown[0]!r}; it has {known}")
        if ("model" in self.inputs) != (self.model is not None):
            raise ValueError("a stage with the model among its inputs says what it does with it, and no other does")
        tokens = self.model.batch_tokens if isinstance(self.model, Infers) else None
        if tokens is not None and not any(f"{tokens}.".startswith(f"{key}.") for key in self.config):
            raise ValueError(f"{tokens} is not among the stage's config")

    @property
    def trains(self) -> Trains | None:
        """How it trains; None if it doesn't."""
        return self.model if isinstance(self.model, Trains) else None

    @property
    def samples(self) -> bool:
        """Does it let the model write answers?"""
        return isinstance(self.model, Infers) and self.model.samples

    def keys_with(self, cfg: DictConfig) -> tuple[str, ...]:
        """The keys that shape its result under these settings."""
        world = self.world if cfg.data.name == "world" else ()
        return self.config + world + (self.judged if is_chosen_by_judges(cfg) else ())

    def reads_with(self, cfg: DictConfig) -> tuple[str, ...]:
        """The stages it reads under these settings."""
        return self.reads if self.only is None else tuple(name for name in self.reads if name in self.only(cfg))
