"""One side of the best of several: answers to prompts, each scored by a hybrid reward on the model's own states:
python -m benchmarks.sampling side=ours folder=...

Theirs is what a user of transformers writes: generate with `num_return_sequences`, prompts padded on the left, then a
second forward of the padded sequences, without the head, with all hidden states. One token in sixty ends an answer, so
that their lengths differ as those of a trained model do. The unit is an answer that was sampled and scored.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import torch
from transformers import AutoModelForCausalLM

from alignment.models.load import Loaded, load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.packing import Packing
from alignment.models.source import ModelSource
from alignment.runs.ranks import Ranks
from alignment.sampling.candidates import Question, hybrid_scorer, sample_answers, score_answers
from alignment.settings.compose import compose_config
from benchmarks import arguments, lengths, models
from benchmarks.operations import forward_operations
from benchmarks.turns import Turns

DEFAULTS = {"side": "ours", "folder": "", "size": "{}", "batch": 8, "rows": 512, "count": 8, "longest_answer": 128}
END_EVERY = 60

Lengths = list[list[int]]  # of each prompt: the tokens of its answers
Answer = Callable[[range, list[list[int]]], Lengths]


def main(argv: Sequence[str], asked: TextIO | None = None, said: TextIO | None = None) -> None:
    turns = Turns(asked, said)
    given = arguments.read(argv, DEFAULTS)
    size, batch, ranks = models.Size(**json.loads(given["size"])), given["batch"], Ranks.here()
    rows = lengths.pairs(given["rows"], size.vocabulary, size.longest)
    with tempfile.TemporaryDirectory() as work:
        work = ranks.from_main(lambda: work)  # all ranks share the first one's folder
        new, count, folder = given["longest_answer"], given["count"], Path(given["folder"])
        if given["side"] == "ours":
            answer = ours(folder, size, count, new, Path(work), ranks)
            turns.ready(engine="sample_answers, score_answers", n=count, max_new_tokens=new, dtype="float32")
        else:
            answer = theirs(folder, size, count, new)
            turns.ready(engine="generate, then a second forward", n=count, max_new_tokens=new, dtype="float32")
        while turns.begin():
            pairs = range(turns.number * batch, (turns.number + 1) * batch)
            prompts = [rows[i % len(rows)]["prompt_ids"] for i in pairs]
            answers = answer(pairs, prompts)
            mine = list(zip(prompts, answers, strict=True))[ranks.rank :: ranks.count]  # about what a rank did
            operations = sum(forward_operations(size.shape, len(prompt), found, head=True) for prompt, found in mine)
            tokens = sum(len(prompt) + sum(found) for prompt, found in mine)
            turns.end(pairs, sum(len(found) for _, found in mine), tokens, operations)
        ranks.wait()


def ours(folder: Path, size: models.Size, count: int, new: int, work: Path, ranks: Ranks) -> Answer:
    source = ModelSource(str(folder), dtype="float32")
    loaded = load_language_model(source, torch.device("cpu"))
    loaded = Loaded(loaded.model, loaded.format, end_ids(size))
    scorer = hybrid_scorer(loaded, models.reward(size))
    sampling = compose_config(["+recipe=cdpo", f"sampling.max_new_tokens={new}"]).sampling
    settings = with_own_decoding(sampling, source, ranks.say)

    def answer(pairs: range, prompts: list[list[int]]) -> Lengths:
        questions = [
            Question(f"prompt {i}", [{"role": "user", "content": models.text(ids)}], ids)
            for i, ids in zip(pairs, prompts, strict=True)
        ]
        here = work / f"{pairs.start}"
        samples = sample_answers(loaded, questions, settings, 0, count, here / "samples", ranks)
        score_answers(scorer, loaded, questions, samples, Packing(), settings["batch_tokens"], here / "scores", ranks)
        return [[len(sample.text.split()) + sample.finished for sample in many] for many in samples]

    return answer


def theirs(folder: Path, size: models.Size, count: int, new: int) -> Answer:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reward, ends, pad = models.reward(size), sorted(end_ids(size)), size.vocabulary - 1
    torch.manual_seed(0)

    @torch.no_grad()
    def answer(pairs: range, prompts: list[list[int]]) -> Lengths:
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        sequences = model.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, num_return_sequences=count, max_new_tokens=new,
            eos_token_id=ends, pad_token_id=pad,
        )  # fmt: skip
        ended = torch.isin(sequences[:, width:], torch.tensor(ends))
        ended[:, -1] = True
        lengths = ended.int().argmax(dim=1) + 1
        seen = torch.arange(sequences.shape[1] - width) < lengths[:, None]
        mask = torch.cat([mask.repeat_interleave(count, dim=0), seen.long()], dim=1)
        read = model.model(input_ids=sequences, attention_mask=mask, output_hidden_states=True, use_cache=False)
        hidden = read.hidden_states[1:]
        rows = torch.arange(len(sequences))
        reward.score(torch.stack([layer[rows, width + lengths - 1] for layer in hidden], dim=1))
        return [some.tolist() for some in lengths.split(count)]

    return answer


def end_ids(size: models.Size) -> set[int]:
    return {*range(0, size.vocabulary, END_EVERY), size.vocabulary - 1}


if __name__ == "__main__":
    main(sys.argv[1:])
