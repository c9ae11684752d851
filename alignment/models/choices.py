"""Multiple-choice questions by log-likelihood: which of " A", " B", " C", " D" a model would write next (MMLU).

The prompt is that of the benchmark's own code (Hendrycks et al. 2021, github.com/hendrycks/test, evaluate.py), with one
space before the subject where that code writes two; so it is, letter for letter, what lm-evaluation-harness asks:

    The following are multiple choice questions (with answers) about {subject}.

    {question}
    A. {choice}  ...  D. {choice}
    Answer: {letter}         and so on for every example; then the question, up to "Answer:"

No chat template is applied. A question that is too long for the model's context gets fewer examples.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from alignment.data.columns import BadRow
from alignment.models.completions import add_completion_head, answer_log_probs
from alignment.models.devices import to_host
from alignment.models.load import Loaded
from alignment.models.packing import PACKABLE, Item, Layout, Packing, answer_order
from alignment.models.packing_check import agree
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks

LETTERS = "ABCD"
CHECKED = 2  # questions on which packed and padded rows are compared


@dataclass(frozen=True)
class Choices:
    """A question as tokens: the prompt, and each answer's own; `shots` examples are in the prompt."""

    item: Item
    shots: int


def as_choices(loaded: Loaded, question: Mapping, examples: Sequence[Mapping]) -> Choices:
    """The question after as many of the examples as the model's context has room for; BadRow if it has none for it."""
    endings = [f" {letter}" for letter in LETTERS]
    for shots in range(len(examples), -1, -1):
        item = _item(loaded, question_prompt(question, examples[:shots]), endings)
        if loaded.context is None or item.longest <= loaded.context:
            return Choices(item, shots)
    raise BadRow(f"its {item.longest} tokens are more than the model's context of {loaded.context}")


def question_prompt(question: Mapping, examples: Sequence[Mapping]) -> str:
    """Up to "Answer:"."""
    subject = question["subject"].replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    asked = [f"{_asked(one)} {LETTERS[one['answer']]}\n\n" for one in examples]
    return head + "".join(asked) + _asked(question)


def _asked(question: Mapping) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question["choices"], strict=True)]
    return "\n".join([question["question"].strip(), *lines, "Answer:"])


def _item(loaded: Loaded, prompt: str, endings: Sequence[str]) -> Item:
    """As tokens, with the BOS that the tokenizer adds to any text; what isn't the prompt's token is the answer's."""
    before = loaded.format.plain_ids(prompt)
    whole = [loaded.format.plain_ids(prompt + ending) for ending in endings]
    shared = min(_shared(before, ids) for ids in whole)
    return Item(before[:shared], [ids[shared:] for ids in whole])


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def choice_log_probs(
    loaded: Loaded,
    questions: Sequence[Choices],
    packing: Packing,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> list[list[float]]:
    """The log-probability of every answer to every question, in planned batches; a prompt is read once for its four."""
    if loaded.model.config.model_type in PACKABLE:
        add_completion_head(loaded.model)
    else:
        add_fused_lm_head(loaded.model)
    items = [one.item for one in questions]
    layout = _layout(loaded, items, packing, ranks.say)

    def compute(batch: list[int]) -> Pending:
        found = to_host(_log_probs(loaded, layout, [items[i] for i in batch]))
        return lambda: json.dumps(found().tolist()).encode()

    log_probs = [[0.0] * len(one.answers) for one in items]
    sizes = [layout.size(one) for one in items]
    for batch, content in compute_in_batches(work, "multiple choice", sizes, batch_tokens, compute, ranks):
        order = answer_order([items[i] for i in batch])
        for (number, which), value in zip(order, json.loads(content), strict=True):
            log_probs[batch[number]][which] = value
    return log_probs


@torch.inference_mode()
def _log_probs(loaded: Loaded, layout: Layout, items: Sequence[Item]) -> Tensor:
    batch = {name: value.to(loaded.model.device) for name, value in layout.batch(items).items()}
    return answer_log_probs(loaded.model, loaded.model, layout, batch).float()


def _layout(loaded: Loaded, items: Sequence[Item], packing: Packing, say: Callable[[str], None]) -> Layout:
    """How the questions will be read; said, and, if packed, compared with padded rows on the first of them."""
    model, pad_id = loaded.model, loaded.tokenizer.pad_token_id
    layout, line = packing.layout([model], model.device, pad_id, lambda: max(item.longest for item in items))
    say(line)
    if layout.packed:
        few = items[:CHECKED]
        packed, padded = (_log_probs(loaded, one, few) for one in (layout, replace(layout, packed=False)))
        agree("log-probabilities", packed, padded, model.dtype != torch.float32)
    return layout
