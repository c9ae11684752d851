"""The README of a published model: what it is, how to load it, what was checked."""

from alignment.data.chat import ChatFormat
from alignment.types import Margins

MARGINS: dict[Margins, str] = {
    "none": "none",
    "legend": "Legend's",
    "constant": "the mean size of Legend's for every pair",
    "shuffled": "Legend's, dealt to other pairs",
}
COMPARED = {
    "loaded": "with the model as it was trained",
    "one_by_one": "one conversation at a time, or many in a batch",
    "pipeline": "through transformers' text-classification pipeline",
    "chat_template": "written by its chat template instead of as above",
    "left_padding": "padded on the left",
    "bfloat16": "computed in bfloat16",
    "reloaded_in_4_bits": "the adapters on their base in 4 bits, with the model as it was trained",
    "unmerged": "the adapters on their base, not merged",
}


def reward_model_card(
    recipe: str, margins: Margins, seed: int, trained_on: str, format: ChatFormat, parity: dict[str, float]
) -> str:
    """The card for people who find the model's folder without the run around it. parity: what check_parity gave."""
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
    conversation = format.text([{"role": "user", "content": "A"}], [{"role": "assistant", "content": "B"}])
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, repalign]
---
# Reward model `{margins}`, seed {seed}

Scores an answer to a prompt; higher is better. Trained by repalign's recipe `{recipe}` with the loss
`-log sigmoid(r_chosen - r_rejected - m)`, margins m: {MARGINS[margins]}.

```python
from transformers import pipeline

reward = pipeline("text-classification", model="<this folder>")
reward({conversation!r})[0]["score"]  # the raw score: problem_type is "regression", nothing is applied to it
```

Give it a conversation {written}, without the BOS token that the tokenizer adds by itself.
{padding}

Loaded back from this folder in float32, its scores differ at most by:

| compared | difference |
|---|---|
{checks}
{quantized}

{trained_on}
"""
