"""One side of the annotation of preference pairs with margins: python -m benchmarks.annotation side=ours folder=...

Ours reads both answers of all pairs of a step in planned batches, at the last layer, without the language-model head.
Theirs is what Legend's code does: one answer at a time, logits and all layers' states, of which one state is kept.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.data.chat import Rendered
from alignment.models.annotator import Annotator
from alignment.models.load import load_backbone
from alignment.models.packing import Packing
from alignment.models.source import ModelSource
from alignment.runs.ranks import Ranks
from benchmarks import arguments, lengths, models
from benchmarks.operations import forward_operations
from benchmarks.turns import Turns

DEFAULTS = {"side": "ours", "folder": "", "size": "{}", "batch": 64, "rows": 512, "tokens": None}
BATCH_TOKENS = 4096  # as in conf/annotator

Annotate = Callable[[int, list[lengths.Pair]], np.ndarray]  # the number of the step, its pairs: their margins


def main(argv: Sequence[str], asked: TextIO | None = None, said: TextIO | None = None) -> None:
    turns = Turns(asked, said)
    given = arguments.read(argv, DEFAULTS)
    size, batch, ranks = models.Size(**json.loads(given["size"])), given["batch"], Ranks.here()
    rows = lengths.pairs(given["rows"], size.vocabulary, size.longest, given["tokens"])
    with tempfile.TemporaryDirectory() as work:
        work = ranks.from_main(lambda: work)  # all ranks share the first one's folder
        if given["side"] == "ours":
            annotate = ours(Path(given["folder"]), size, Path(work), ranks)
            turns.ready(reader="Annotator", dtype="float32", batch_tokens=BATCH_TOKENS)
        else:
            annotate = theirs(Path(given["folder"]))
            turns.ready(reader="one answer at a time, all hidden states, logits", dtype="float32")
        while turns.begin():
            pairs = range(turns.number * batch, (turns.number + 1) * batch)
            step = [rows[i % len(rows)] for i in pairs]
            margins = annotate(turns.number, step)
            mine = step[ranks.rank :: ranks.count]  # about what a rank did
            turns.end(
                pairs, len(mine), sum(map(lengths.length_of, mine)), sum(_operations(size, pair) for pair in mine),
                margin=float(np.mean(margins)),
            )  # fmt: skip
        ranks.wait()


def ours(folder: Path, size: models.Size, work: Path, ranks: Ranks) -> Annotate:
    loaded = load_backbone(ModelSource(str(folder), dtype="float32"), torch.device("cpu"))
    layout, _ = Packing().layout(
        [loaded.model], loaded.model.device, loaded.tokenizer.pad_token_id, lambda: size.longest
    )
    annotator = Annotator(loaded, "endpoint", "chat", size.longest, BATCH_TOKENS, work, ranks, layout)
    direction = annotator.direction("distance", "last", None, seed=0)

    def annotate(step: int, pairs: list[lengths.Pair]) -> np.ndarray:
        return annotator.margins(f"step-{step}", [_rendered(pair) for pair in pairs], direction, seed=0).raw

    return annotate


def theirs(folder: Path) -> Annotate:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layer, end = model.config.num_hidden_layers, AutoTokenizer.from_pretrained(folder).eos_token_id

    @torch.no_grad()
    def state(ids: list[int]) -> torch.Tensor:
        assert ids[-1] == end
        inputs = torch.tensor([ids])
        found = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), output_hidden_states=True)
        return found.hidden_states[layer][0, -1]

    def annotate(step: int, pairs: list[lengths.Pair]) -> np.ndarray:
        margins = []
        for pair in pairs:
            chosen, rejected = (state(pair["prompt_ids"] + pair[side]) for side in ("chosen_ids", "rejected_ids"))
            margins.append(float((chosen - rejected).norm()))
        return np.array(margins)

    return annotate


def _rendered(pair: lengths.Pair) -> tuple[Rendered, Rendered]:
    prompt = pair["prompt_ids"]
    return tuple(
        Rendered(np.array(prompt + pair[side], dtype=np.int32), len(prompt), False)
        for side in ("chosen_ids", "rejected_ids")
    )


def _operations(size: models.Size, pair: lengths.Pair) -> int:
    answers = [len(pair["chosen_ids"]), len(pair["rejected_ids"])]
    return forward_operations(size.shape, len(pair["prompt_ids"]), answers, head=False)


if __name__ == "__main__":
    main(sys.argv[1:])
