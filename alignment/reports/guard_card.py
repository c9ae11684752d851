"""The README of a guard: what it reads, what it was fitted on, how good it is, and how it is used."""

from alignment.data.licences import LICENCES, LICENCES_OF_ANSWERS
from alignment.reports.fitted_guard import MEASURES, SCORERS, least_found, with_its_interval
from alignment.reports.markdown import escaped, markdown_table

USE = {
    "judge": "It was fitted without any prompt that policies of its run learn from or are asked: it may judge them.",
    "benchmark": "It was fitted on all labelled answers, to be compared with others: recipes refuse it as a judge.",
}
LOADED = """```python
from alignment.models.guard import Guard

guard = Guard.load("<this folder>")
harm = guard.judge(model, tokenizer, conversations)  # harmful from guard.threshold on
```"""
CAUTION = """Verdicts of a guard are a guard's: look at answers yourself before you rely on it. It knows the language
and the kinds of prompts that it was fitted on."""


def guard_card(report: dict) -> str:
    """report: what guard.json has of it."""
    guard, threshold = report["scorers"]["guard"], report["threshold"]
    first, last = report["layers"]
    sources = [f"{count:,} of `{escaped(name)}` ({_licence(name)})" for name, count in report["sources"].items()]
    quality = [
        [SCORERS[name], *(with_its_interval(report["scorers"][name][measure]) for measure in MEASURES)]
        for name in SCORERS
    ]
    alarms = [
        [source, f"{by['guard']['answers']:,}", with_its_interval(by["guard"]), with_its_interval(by["words"])]
        for source, by in report["false_alarms"].items()
    ]
    tried = [
        [name, f"{by['guard']['answers']:,}", f"{by['guard']['harmful']:,}"]
        + [with_its_interval(by["guard"][measure]) for measure in ("auroc", "sensitivity", "specificity")]
        for name, by in report["transfer"].items()
    ]
    missed = [
        [name, f"{figures['answers']:,}", with_its_interval(figures)]
        for name, figures in least_found(report["found_by_category"])
    ]
    lines = [
        "---\nlibrary_name: repalign\ntags: [safety, guard, probe, repalign]\n---",
        f"# A guard on the activations of {escaped(report['model'])}",
        "It says how likely an answer is harmful, from the states of the model that it was fitted on and of no other: "
        f"a ridge over layers {first} to {last}, at the token that ends the answer and in the mean over it.\n"
        f"{USE[report['fit']]}",
        LOADED,
        "or `judge=probe judge.probe.path=<this folder>` in a recipe of repalign.",
        f"Fitted on {', '.join(sources)}.",
        "## How good it is",
        f"On {guard['answers']:,} labelled answers, {guard['harmful']:,} of them harmful, each by a fit to other "
        f"prompts; nearly the same are kept together: {guard['prompts']:,} groups, over which the 95% intervals are.\n"
        f"At its threshold, {threshold:.2f}:",
        *_table(["", *MEASURES.values()], quality),
        *_table(["answers to harmless prompts, called harmful, %", "answers", "guard", "words alone"], alarms),
        *_table(["tried on, as it is", "answers", "harmful", "AUROC, %", "found, %", "passed, %"], tried),
        *_table(["kind of harm, the least found first", "answers", "found, %"], missed),
        CAUTION,
    ]
    return "\n\n".join(lines) + "\n"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return ["\n".join(markdown_table(heads, rows, named=1))] if rows else []


def _licence(source: str) -> str:
    return {**LICENCES, **LICENCES_OF_ANSWERS}.get(source.partition("/")[0], "whose licence its owner knows")
