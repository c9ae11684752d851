"""Judges many answers in planned batches: a killed run goes on at the first batch that is missing."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from alignment.judges.verdicts import Judge, Verdict
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.types import Message, UserError

BATCH = 50_000  # characters: some seconds of a guard on a GPU; a judge divides them further to fit its memory


def judge_all(
    judge: Judge, prompts: Sequence[list[Message]], answers: Sequence[str], work: Path, ranks: Ranks
) -> tuple[list[Verdict], Counter[str]]:
    """A verdict on each answer, in order, and the judge's counts. work: a folder for this judge and these answers."""
    if getattr(judge, "remembers", False):  # it counts what it has paid for, also for batches that are finished
        if ranks.count > 1:
            raise UserError(f"judge.{judge.name}", "its rate and its budget belong to one process", "start one process")
        shutil.rmtree(work, ignore_errors=True)

    def compute(batch: list[int]) -> Pending:
        before = Counter(_counts(judge))
        verdicts = judge([prompts[i] for i in batch], [answers[i] for i in batch])
        content = {"verdicts": [asdict(verdict) for verdict in verdicts], "counts": _counts(judge) - before}
        return json.dumps(content).encode

    sizes = [sum(len(message["content"]) for message in p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    verdicts: list[Verdict | None] = [None] * len(sizes)
    counts: Counter[str] = Counter()
    for items, content in compute_in_batches(work, f"judging: {judge.name}", sizes, BATCH, compute, ranks):
        batch = json.loads(content)
        counts.update(batch["counts"])
        for item, verdict in zip(items, batch["verdicts"], strict=True):
            verdicts[item] = Verdict(**verdict)
    return verdicts, counts


def _counts(judge: Judge) -> Counter[str]:
    return Counter(getattr(judge, "counts", {}))
