"""Multiple-choice questions by log-likelihood: which of " A", " B", " C", " D" a model would write next (MMLU).

The prompt is that of the benchmark's own code (Hendrycks et al. 2021, github.com/hendrycks/test, evaluate.py), with one
space before the subject where that code writes two; so it is, letter for letter, what lm-evaluation-harness asks:

    The following are multiple choice questions (with answers) about {subject}.

    {question}
    A. {choice}  ...  D. {choice}
    Answer: {letter}         and so on for every example; then the question, up to "Answer:"

No chat template is applied. Where the examples (`shots`) don't all fit into the model's context, the last are left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alignment.data.cells import BadRow
from alignment.models.devices import to_host
from alignment.models.load import Loaded
from alignment.models.packing import Item, Packing, answer_order, shared_start
from alignment.models.packing_check import checked_layout
from alignment.models.scoring import add_log_probs, packed_log_probs
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks

LETTERS = "ABCD"


@dataclass(frozen=True)
class Choices:
    """A question as tokens: a prompt with `shots` examples, and the four answers."""

    item: Item
    shots: int


def as_choices(loaded: Loaded, question: Mapping, examples: Sequence[Mapping]) -> Choices:
    """The question after as many examples as the model's context has room for; BadRow if there is none for itself."""
    endings = [f" {letter}" for letter in LETTERS]
    for shots in range(len(examples), -1, -1):
        item = _item(loaded, question_prompt(question, examples[:shots]), endings)
        if loaded.context is None or item.longest <= loaded.context:
            return Choices(item, shots)
    raise BadRow(f"its {item.longest} tokens are more than the model's context of {loaded.context}")


def question_prompt(question: Mapping, examples: Sequence[Mapping]) -> str:
    """The prompt up to its last "Answer:"."""
    subject = question["subject"].replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    shots = [f"{_question_text(example)} {LETTERS[example['answer']]}\n\n" for example in examples]
    return head + "".join(shots) + _question_text(question)


def _question_text(question: Mapping) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question["choices"], strict=True)]
    return "\n".join([question["question"].strip(), *lines, "Answer:"])


def _item(loaded: Loaded, prompt: str, endings: Sequence[str]) -> Item:
    """The texts as tokens, with the BOS that the tokenizer adds to any text.

    A token that isn't the same with and without an ending belongs to the answers.
    """
    prompt_ids = loaded.format.plain_ids(prompt)
    text_ids = [loaded.format.plain_ids(prompt + ending) for ending in endings]
    start = shared_start([prompt_ids, *text_ids])
    return Item(prompt_ids[:start], [ids[start:] for ids in text_ids])


def choice_log_probs(
    loaded: Loaded,
    questions: Sequence[Choices],
    packing: Packing,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> list[list[float]]:
    """The log-probability of every answer to every question, in planned batches."""
    add_log_probs(loaded.model)
    items = [question.item for question in questions]
    read = partial(packed_log_probs, loaded.model)
    layout = checked_layout(
        "log-probabilities", read, loaded.model, packing, loaded.tokenizer.pad_token_id, items, ranks
    )

    def compute(batch: list[int]) -> Pending:
        values = to_host(read(layout, [items[i] for i in batch]))
        return lambda: json.dumps(values().tolist()).encode()

    log_probs = [[0.0] * len(item.answers) for item in items]
    sizes = [layout.size(item) for item in items]
    for batch, content in compute_in_batches(work, "multiple choice", sizes, batch_tokens, compute, ranks):
        order = answer_order([items[i] for i in batch])
        for (number, which), value in zip(order, json.loads(content), strict=True):
            log_probs[batch[number]][which] = value
    return log_probs
