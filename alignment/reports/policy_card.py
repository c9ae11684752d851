"""The README of a policy: what it is, where it comes from, and what its answers to unseen prompts are worth."""

from collections.abc import Mapping
from typing import Any

from alignment.models.model_card import Origin
from alignment.policies.systems import SYSTEMS

PAPER = "https://arxiv.org/abs/2503.10093"
NOT_EVALUATED = "It was not evaluated in its run.\n"
FIGURES = "## Its answers to unseen prompts\n"
END = "\n\nA judge's verdicts are a judge's: look at answers yourself before you rely on this model.\n"


def policy_card(
    origin: Origin, training: Mapping[str, Any], settings: Mapping[str, Any], adapters: bool, figures: list[str]
) -> str:
    """training: what trainings.json has of it. settings: conf/policy. figures: of its evaluation, in Markdown."""
    system = SYSTEMS[training["system"]]
    method = f"[{system.says}]({PAPER})" if system.confidence == "live" else system.says
    beta = "" if training["beta"] is None else f"beta {training['beta']:g}, "
    rate, size = f"{training['learning_rate']:g}", settings["batch_size"]
    merged = ""
    if adapters:
        merged = "\nIt is the base model with LoRA adapters merged into it; they lie in `adapters`, for peft.\n"
    return f"""{origin.head("text-generation", ["alignment", "dpo" if system.confidence else "sft"])}
# {training["system"]} of {origin.base}, seed {training["seed"]}

A policy trained for safer answers: {method}.
It learned from {training["pairs"]:,} pairs in {training["steps"]:,} steps of {size}; {beta}peak learning rate {rate}.
{merged}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("<this folder>", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```

## What it was trained on

{origin.lines()}

{FIGURES}
{chr(10).join(figures)}{END}"""


def with_figures(card: str, figures: list[str]) -> str:
    """A card that is there with other figures; as it is, if somebody wrote it otherwise."""
    head, found, rest = card.partition(FIGURES)
    _, ended, after = rest.partition(END)
    return f"{head}{FIGURES}\n{chr(10).join(figures)}{END}{after}" if found and ended else card
