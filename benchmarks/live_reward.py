"""What the live hybrid reward costs inside a confidence-DPO step, and what it saves (the paper's figure 7):
python -m benchmarks.live_reward side=live folder=...

live: a training step, with the seconds it spent in hooks, in scoring, and in the reward's backward pass and step.
fixed: the same step with a fixed confidence. online: what live reward takes the place of, for as many pairs: the policy
answers every prompt twice, and a reward model of its size reads the answers.
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment.models import activations
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.live_reward import LiveReward
from benchmarks import arguments, lengths, models
from benchmarks.operations import online_operations
from benchmarks.training import OneStepATurn, build, needed, told
from benchmarks.turns import Turns

DEFAULTS = {"side": "live", "folder": "", "size": "{}", "batch": 8, "rows": 512, "tokens": None}
PARTS = (
    (activations.Reader, "record", "hooks"),
    (LiveReward, "rewards", "scoring"),
    (LiveReward, "add", "backward"),
    (LiveReward, "step", "step"),
)


def main(argv: Sequence[str], asked: TextIO | None = None, said: TextIO | None = None) -> None:
    turns = Turns(asked, said)
    given = arguments.read(argv, DEFAULTS)
    size, folder = models.Size(**json.loads(given["size"])), Path(given["folder"])
    rows = lengths.pairs(given["rows"], size.vocabulary, size.longest, given["tokens"])
    if given["side"] == "online":
        online(turns, folder, size, given["batch"], rows)
        return
    name = "cdpo" if given["side"] == "live" else "dpo"
    with tempfile.TemporaryDirectory() as output:
        trainer = build(name, "ours", folder, size, given["batch"], rows, Path(output))
        trainer.add_callback(_Timed(turns, trainer, rows, needed(name, size)))
        turns.ready(**told(name, "ours"))
        trainer.train()


class _Timed(OneStepATurn):
    """Tells with every step what its parts took."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self._spent = time_parts()

    def more(self) -> dict:
        if self._trainer.live is None:
            return {}
        inside = dict(self._spent)
        self._spent.clear()
        return {"inside": inside, "bytes_held": bytes_held(self._trainer)}


def time_parts() -> dict[str, float]:
    """From here on, the seconds spent in each part add up in what is returned."""
    spent: dict[str, float] = defaultdict(float)
    for owner, name, what in PARTS:
        _time(owner, name, spent, what)
    return spent


def bytes_held(trainer: ConfidenceDPOTrainer) -> int:
    """The reward's parameters, its gradient sums, AdamW's state, and the states of one batch."""
    live, batch = trainer.live, trainer.args.per_device_train_batch_size
    tensors = [*live.reward.state_dict().values(), *live._sums]
    tensors += [value for state in live._optimiser.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in tensors) + 2 * batch * live.reward.weight.numel() * 4


def online(turns: Turns, folder: Path, size: models.Size, batch: int, rows: list[lengths.Pair]) -> None:
    """Two answers to each prompt, as long as the rows' own, and their rewards."""
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    judge = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    turns.ready(engine="generate, then a reward model", dtype="float32")
    end = size.vocabulary - 1
    while turns.begin():
        pairs = range(turns.number * batch, (turns.number + 1) * batch)
        step = [rows[i % len(rows)] for i in pairs]
        prompts, answer = torch.tensor([row["prompt_ids"] for row in step]), len(step[0]["chosen_ids"])
        with torch.no_grad():
            texts = policy.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=True, num_return_sequences=2,
                min_new_tokens=answer, max_new_tokens=answer, pad_token_id=end,
            )  # fmt: skip
            judge(input_ids=texts, attention_mask=torch.ones_like(texts), use_cache=False)
        operations = len(step) * online_operations(size.shape, prompts.shape[1], answer)
        turns.end(pairs, len(step), sum(map(lengths.length_of, step)), operations)


def _time(owner: type, name: str, spent: dict[str, float], what: str) -> None:
    inner = getattr(owner, name)

    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[what] += time.perf_counter() - started

    setattr(owner, name, timed)


if __name__ == "__main__":
    main(sys.argv[1:])
