"""The README of a published model: what it is, where it comes from, how to load it, what was checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.types import Margins

CARD = "README.md"  # in the model's folder
TAG = "repalign"  # the last one of every card
MARGINS: dict[Margins, str] = {
    "none": "",
    "legend": "Legend's",
    "constant": "the mean size of Legend's for every pair",
    "random": "drawn evenly between the smallest and the largest of Legend's",
    "shuffled": "Legend's, dealt to other pairs",
    "severity": "how much worse people or the world grade the rejected answer, as large as Legend's on average",
    "single": "the gap of a reward model without margins on its own pairs, as large as Legend's on average",
    "crossfit": "the gap of a reward model that learned from other pairs, as large as Legend's on average",
    "ensemble": "the mean gap of several reward models without margins, as large as Legend's on average",
}
COMPARED = {
    "loaded": "with the model as it was trained",
    "unrounded": "with it before its weights were rounded to be saved",
    "one_by_one": "one conversation at a time, or many in a batch",
    "pipeline": "through transformers' text-classification pipeline",
    "chat_template": "written by its chat template instead of as above",
    "left_padding": "padded on the left",
    "bfloat16": "computed in bfloat16",
    "reloaded_in_4_bits": "the adapters on their base in 4 bits, with the model as it was trained",
    "unmerged": "the adapters on their base, not merged",
}


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, without a path of the machine that it was trained on.

    base: the model that it began as, by its name; base_version: a commit, or a hash of its files. datasets: the names
    of its data on the hub. pairs: its data in words, with their licences. made: the day. recipe: with its version.
    """

    base: str
    base_version: str
    datasets: Sequence[str]
    pairs: str
    made: str
    recipe: str

    def head(self, task: str, tags: Sequence[str]) -> str:
        """What the hub reads of a card. Names are quoted: those of folders may have what YAML takes for its own."""
        datasets = f"datasets: {json.dumps(self.datasets, ensure_ascii=False)}\n" if self.datasets else ""
        base = json.dumps(self.base, ensure_ascii=False)
        return (
            f"---\nlibrary_name: transformers\npipeline_tag: {task}\nbase_model: {base}\n{datasets}"
            f"tags: [{', '.join(tags)}, {TAG}]\n---\n"
        )

    def lines(self) -> str:
        """What people read of it."""
        return (
            f"- Base model: `{self.base}` ({self.base_version}); its licence applies.\n- Pairs: {self.pairs}.\n"
            f"- Trained on {self.made} by {self.recipe}."
        )


def tells_of_training(card: str) -> bool:
    """Is it the card of a model that a run trained?"""
    return f", {TAG}]\n---\n" in card


def _learned(margins: Margins, summary: Mapping[str, Any]) -> str:
    how = f"It learned from {summary['pairs']:,} pairs in {summary['steps']:,} steps, with the loss"
    if margins == "none":
        return f"{how} `-log sigmoid(r_chosen - r_rejected)`."
    loss = "`-log sigmoid(r_chosen - r_rejected - m)`"
    return f"{how} {loss}, margins m: {MARGINS[margins]} ([Legend](https://arxiv.org/abs/2406.08124))."


def reward_model_card(origin: Origin, margins: Margins, seed: int, summary: Mapping[str, Any], heldout: str) -> str:
    """The card for people who find the model's folder without the run around it.

    summary: what training.json has of it: its parity, and a conversation as it reads one. heldout: figures on unseen
    pairs, in Markdown.
    """
    parity, conversation = summary["parity"], summary["conversation"]
    padding = (
        "Either padding side gives the same scores."
        if parity["left_padding"] <= 1e-4
        else f"Pad on the right, as the saved tokenizer does: left, scores differ by {parity['left_padding']:.1e}."
    )
    checks = "\n".join(f"| {words} | {parity[name]:.1e} |" for name, words in COMPARED.items() if name in parity)
    written = "as its chat template renders it"
    if "chat_template" in parity:
        written = "as above: its chat template writes something else around the answer, or another date"
    quantized = "\nThe first line is what four bits change: adapters learned on them." if "unmerged" in parity else ""
    return f"""{origin.head("text-classification", ["reward-model"])}
# Reward model `{margins}`, seed {seed}

Scores an answer to a prompt; higher is better. {_learned(margins, summary)}

```python
from transformers import pipeline

reward = pipeline("text-classification", model="<this folder>")
reward({conversation!r})[0]["score"]  # the raw score: problem_type is "regression", nothing is applied to it
```

Give it a conversation {written}, without the BOS token that the tokenizer adds by itself.
{padding}

## What it was trained on

{origin.lines()}

## Unseen pairs ranked right

{heldout}

## How it loads

Loaded back from this folder in float32, its scores differ at most by:

| compared | difference |
|---|---|
{checks}
{quantized}
"""
