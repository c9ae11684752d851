"""Every metric: its name, the column it is the mean of, what it needs, and whether more of it is better."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

from alignment.judges.verdicts import Verdict

HARMFUL, HARMLESS, UNKNOWN = ASKS = ("harmful", "harmless", "unknown")  # what a prompt asks for
RANDOM = "random"  # the scorer that picks one sample blindly


class OfWorld(NamedTuple):
    """A metric's words in the reports on the embedded world: for its answers, for one of them, and for a policy."""

    answers: str
    answer: str
    policy: str


@dataclass(frozen=True)
class Metric:
    """The mean of a column of one of evaluate's files, as a percentage if it is a rate.

    says: its name in tables. heading: its name in the picture, which shows the metrics that have one. world: its words
    in the world's reports. asks: the prompts it is of; all if empty. by: the column of its categories. alone: it has
    numbers of categories, and none of the whole. needs: what a judge has to say for a metric of verdicts, and a setting
    of the scorecard for any other; None if it needs neither. remedy: what to do where that is missing.
    more_is_better: None if neither more nor less of it is, and no gate is on it.
    """

    says: str
    file: str
    column: str
    asks: tuple[str, ...] = ()
    by: str | None = None
    alone: bool = False
    rate: bool = True
    decoding: str = "sampled"
    needs: str | None = None
    remedy: str = ""
    more_is_better: bool | None = None
    heading: str | None = None
    world: OfWorld | None = None

    @property
    def errors_of(self) -> str | None:
        """What a judge says of an answer where this is the rate of that, which the judge's errors move; else None."""
        return self.needs if self.rate and self.needs in KINDS else None

    def is_of(self, harmful: bool) -> bool:
        """Whether it is of prompts of the world that ask for something harmful, or for something harmless."""
        return (HARMFUL if harmful else HARMLESS) in self.asks

    def counts(self, verdict: Verdict) -> bool:
        """Whether an answer with this verdict counts, if the metric is a rate of verdicts."""
        return getattr(verdict, self.column)

    def title(self, answers: str, twins: str = "harmless twins") -> str:
        """Its title in the world's reports. twins: what harmless prompts are called there."""
        return f"{'harmful prompts' if self.is_of(True) else twins}: {answers}, %"


KINDS = {"toxic": "harm", "refusal": "refusals"}  # what judges are held against labels on, in words
ANY_VERDICT = "verdict"  # a need that every judge meets
REFUSALS = {"file": "verdicts", "column": "refused", "by": "prompt_category", "needs": "refusal"}
HELP = {"file": "verdicts", "asks": (HARMLESS,), "needs": "helpfulness", "more_is_better": True,
        "remedy": "only the world's oracle says how helpful an answer is"}  # fmt: skip
USEFULNESS = {"file": "usefulness", "asks": (HARMLESS,), "decoding": "usefulness", "needs": "usefulness",
              "remedy": "set scorecard.usefulness=true, and add a set with harmless prompts"}  # fmt: skip
COMPARISONS = {"file": "comparisons", "asks": (HARMLESS,), "decoding": "pairwise", "needs": "pairwise",
               "remedy": "set scorecard.pairwise=true and judge=[refusal,api], and compare two models"}  # fmt: skip
METRICS = {
    "toxic_rate": Metric(
        "toxic answers", "verdicts", "toxic", (HARMFUL, UNKNOWN), by="prompt_category", more_is_better=False,
        needs="toxic", remedy="add a judge of harm, and a set of harmful prompts", heading="toxic answers",
        world=OfWorld("toxic answers", "toxic", "toxic"),
    ),
    "refusal_rate": Metric(
        "harmful prompts refused", asks=(HARMFUL,), more_is_better=True, heading="refusals of harmful prompts",
        remedy="add a judge of refusals, and a set of harmful prompts", **REFUSALS,
    ),
    "unknown_refusal_rate": Metric(
        "prompts of unknown harm refused", asks=(UNKNOWN,), heading="refusals of prompts of unknown harm", **REFUSALS,
    ),
    "over_refusal": Metric(
        "harmless prompts refused", asks=(HARMLESS,), more_is_better=False, heading="refusals of harmless prompts",
        remedy="add a judge of refusals, and a set with harmless prompts, such as xstest",
        world=OfWorld("refusals", "refused", "refuses harmless"), **REFUSALS,
    ),
    "helpful_rate": Metric(
        "helpful answers", column="helpful", heading="helpful answers to harmless prompts",
        world=OfWorld("helpful answers", "helpful", "helpful"), **HELP,
    ),
    "helpfulness": Metric("helpfulness, 0 to 3", column="helpfulness", rate=False, **HELP),
    "unparsed": Metric(
        "verdicts that can't be read", "verdicts", "unparsed", needs=ANY_VERDICT, remedy="add a judge",
        more_is_better=False,
    ),
    "words": Metric("words an answer", "answers", "words", rate=False),
    "unfinished": Metric("answers cut off", "answers", "unfinished", more_is_better=False),
    "useful_rate": Metric(
        "useful answers, by likelihood", column="useful", more_is_better=True, heading="useful answers, by likelihood",
        **USEFULNESS,
    ),
    "on_topic": Metric("on topic, nats", column="on_topic", rate=False, **USEFULNESS),
    "log_perplexity": Metric("log perplexity, nats", column="log_perplexity", rate=False, **USEFULNESS),
    "repetition": Metric("repeated runs of 4 words", column="repetition", rate=False, **USEFULNESS),
    "preferred_rate": Metric(
        "answers more useful than the first model's", column="preferred", more_is_better=True,
        heading="answers more useful than the first model's", **COMPARISONS,
    ),
    "flipped": Metric("of these verdicts, changed by the order", column="flipped", **COMPARISONS),
    "reward": Metric(
        "reward", "answers", "reward", rate=False, needs="reward_model", remedy="set scorecard.reward_model",
        more_is_better=True,
    ),
    "mmlu": Metric(
        "MMLU, right", "choices", "right", by="subject", decoding="log-likelihood", needs="mmlu.questions",
        remedy="set scorecard.mmlu.questions", more_is_better=True, heading="multiple choice answered right",
    ),
    "lm_eval": Metric(
        "lm_eval", "lm_eval", "value", by="measure", alone=True, rate=False, decoding="lm-evaluation-harness",
        needs="lm_eval.tasks",
    ),
    "ranked_right": Metric(
        "pairs ranked right", "rankings", "right", by="subset", decoding="reward model", needs="rankings",
        remedy="set scorecard.reward_model and scorecard.rankings", more_is_better=True,
    ),
}  # fmt: skip
WORLD_RATES = {
    name: metric for name, metric in METRICS.items() if metric.world
}  # the world's oracle can say all of them


def mean_rates(judged: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Rates of validation, each the mean over several policies; None if one of these couldn't be judged."""
    if None in judged:
        return None
    return {name: sum(rates[name] for rates in judged) / len(judged) for name in judged[0]}


def usefulness_of(rates: Mapping[str, float]) -> float:
    """The share of helpful answers, where the world's oracle says it, else of those that are useful by likelihood."""
    return rates["helpful_rate"] if "helpful_rate" in rates else rates["useful_rate"]


def measurable(
    settings: Mapping[str, Any], judges: Mapping[str, Collection[str]], asks: Collection[str] = ASKS
) -> set[str]:
    """The metrics there will be. settings: of the scorecard; judges: what each can say; asks: what prompts ask for."""
    verdicts = {ANY_VERDICT}.union(*judges.values()) if judges else set()

    def is_met(metric: Metric) -> bool:
        if metric.needs is None:
            return True
        if metric.file == "verdicts":
            return metric.needs in verdicts
        return bool(reduce(getitem, metric.needs.split("."), settings))

    return {name for name, metric in METRICS.items() if is_met(metric) and set(asks) & set(metric.asks or ASKS)}
