"""What a saved guard calls harmful, at the threshold that it was saved with, of answers that it wasn't fitted on.

    python -m benchmarks.guard_false_alarms GUARD    a folder of +recipe=guard or +recipe=real: .../fit_guard/guard

Answers to harmless prompts that look harmful: XSTest's safe ones, HELM's that both of its graders call harmless, and
the embedded world's twins; SmolLM2's own answers to XSTest's safe prompts; beside them AlpacaEval's, of Alpaca 7B and
SmolLM2's own, which don't look so. And how many it finds of the answers that people (Do-Not-Answer) or both graders
(HELM) call harmful. Of each set at most COUNT, drawn by a fixed seed, to prompts that the guard doesn't know.
Intervals are over groups of nearly the same prompts; of the world, whose requests are all nearly the same, over
requests. Results are in results/guard_false_alarms.json, written anew after each set.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alignment.data.guard_answers import guard_answers
from alignment.data.near_duplicates import near_duplicate_groups
from alignment.data.prompt_sets import prompt_set
from alignment.data.same_prompts import opening
from alignment.data.world_pairs import drawing, world_evaluation_pairs
from alignment.evaluation.guard_quality import share_called
from alignment.judges.probe import load_probe
from alignment.models.guard import Guard
from alignment.settings.compose import compose_config
from benchmarks.guard_sets import DATA, Answer, own

RESULTS = Path(__file__).resolve().parent / "results" / "guard_false_alarms.json"
COUNT, BATCH_TOKENS = 120, 4096
WORLD = "the world's twins"


def labelled(name: str, toxic: bool) -> list[Answer]:
    rows = guard_answers([name], DATA, both=False).rows
    return [(row["prompt"], row["response"], toxic) for row in rows if row["toxic"] == toxic]


def twins() -> list[Answer]:
    """Harmless answers to the world's harmless requests, each but for one word a harmful one."""
    rows = world_evaluation_pairs(4 * COUNT, drawing(compose_config(["+recipe=cdpo"]).data))["same"].rows
    harmless = [row for row in rows if not row["harmful"] and not row["chosen_severity"]]
    return [(row["prompt"], row["chosen"][0]["content"], False) for row in harmless]


def drawn(rows: list[Answer], guard: Guard) -> list[Answer]:
    """At most COUNT, to prompts that the guard doesn't know, in their own order."""
    known = guard.has_seen([prompt for prompt, *_ in rows])
    unknown = [row for row, seen in zip(rows, known, strict=True) if not seen]
    return [unknown[i] for i in sorted(np.random.default_rng(0).permutation(len(unknown))[:COUNT])]


def own_answers(name: str, guard: Guard) -> list[Answer]:
    """SmolLM2's to harmless prompts of a set."""
    prompts = [(row["prompt"], "", False) for row in prompt_set(name, DATA).rows if row["harmful"] is False]
    return own([(prompt, False) for prompt, *_ in drawn(prompts, guard)])


def main(folder: Path) -> None:
    guard, judge = Guard.load(folder), load_probe(str(folder), None, "bfloat16", BATCH_TOKENS, None)
    sets: dict[str, Callable[[], list[Answer]]] = {
        WORLD: lambda: drawn(twins(), guard),
        "xstest_safe": lambda: drawn(labelled("xstest_safe", False), guard),
        "alpaca_eval": lambda: drawn(labelled("alpaca_eval", False), guard),
        "helm_graded, harmless": lambda: drawn(labelled("helm_graded", False), guard),
        "helm_graded, harmful": lambda: drawn(labelled("helm_graded", True), guard),
        "do_not_answer, harmful": lambda: drawn(labelled("do_not_answer", True), guard),
        "own answers to xstest": lambda: own_answers("xstest", guard),
        "own answers to alpaca_eval": lambda: own_answers("alpaca_eval", guard),
    }
    found: dict = {"guard": dict(judge.record), "sources": guard.meaning.sources, "called_harmful": {}}
    for name, read in sets.items():
        rows = read()
        verdicts = judge([prompt for prompt, *_ in rows], [answer for _, answer, _ in rows])
        of = [i for i, verdict in enumerate(verdicts) if not verdict.unparsed]
        texts = [opening(rows[i][0])["content"] for i in of]
        groups = np.unique(texts, return_inverse=True)[1] if name == WORLD else near_duplicate_groups(texts)
        found["called_harmful"][name] = share_called(np.array([verdicts[i].toxic for i in of]), groups, seed=0)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, found["called_harmful"][name], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
