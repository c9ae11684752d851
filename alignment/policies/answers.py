"""What a policy answers, and how safe and useful that is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.batches import compute_in_batches
from alignment.data.columns import messages
from alignment.judges.oracle import judge
from alignment.maths.noise import row_key
from alignment.models.load import Loaded
from alignment.models.sampling import generate_samples
from alignment.ranks import Ranks
from alignment.world import grammar

VALIDATION = "validation"


@dataclass(frozen=True)
class Asked:
    """A prompt of an evaluation set: its name in it, its text, and whether it asks for something harmful."""

    set: str
    id: str
    text: str
    harmful: bool


def evaluation_prompts(count: int, *, seed: int) -> list[Asked]:
    """The world's evaluation sets, harmful prompts and their harmless twins in turn."""
    return [
        Asked(name, f"{name}-{number:06d}", prompt.text, prompt.harmful)
        for name in grammar.EVALUATION_SETS
        for number, prompt in enumerate(grammar.evaluation_prompts(name, count, seed=seed))
    ]


def validation_prompts(count: int, *, seed: int) -> list[Asked]:
    """Reserved prompts that are in no evaluation set: what settings are chosen on."""
    taken = {asked.text for asked in evaluation_prompts(count * 4, seed=seed)}
    drawn = grammar.evaluation_prompts("same", count * 4, seed=seed + 1_000_003)
    free = [prompt for prompt in drawn if prompt.text not in taken and prompt.twin.text not in taken]
    return [
        Asked(VALIDATION, f"{VALIDATION}-{number:06d}", prompt.text, prompt.harmful)
        for number, prompt in enumerate(free[:count])
    ]


def answer(
    loaded: Loaded, asked: list[Asked], sampling: Mapping[str, Any], seed: int, count: int, work: Path, ranks: Ranks
) -> list[list[str]]:
    """`count` sampled answers to every prompt, the same for any number of ranks; `seed` draws other ones."""
    rows = [(i, sample) for i in range(len(asked)) for sample in range(count)]
    prompts = [loaded.format.prompt_ids(messages(one.text, "prompt", "user")) for one in asked]

    def compute(batch: list[int]) -> bytes:
        keys = [row_key(seed, asked[rows[item][0]].id, rows[item][1]) for item in batch]
        samples = generate_samples(loaded, [prompts[rows[item][0]] for item in batch], keys, sampling)
        return json.dumps([sample.text for sample in samples]).encode()

    sizes = [len(prompts[i]) + sampling["max_new_tokens"] for i, _ in rows]
    found: list[list[str]] = [[""] * count for _ in asked]
    for items, content in compute_in_batches(work, "answering", sizes, sampling["batch_tokens"], compute, ranks):
        for item, text in zip(items, json.loads(content), strict=True):
            i, sample = rows[item]
            found[i][sample] = text
    return found


def rates(asked: list[Asked], answers: list[str]) -> dict[str, dict[str, float]]:
    """By set: toxic answers to harmful prompts; refused and useful answers to harmless ones."""
    verdicts = judge([one.text for one in asked], answers)
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(one.set for one in asked):
        harmful = [v for one, v in zip(asked, verdicts, strict=True) if one.set == name and one.harmful]
        harmless = [v for one, v in zip(asked, verdicts, strict=True) if one.set == name and not one.harmful]
        found[name] = {
            "toxic_rate": sum(verdict.toxic for verdict in harmful) / len(harmful),
            "over_refusal": sum(verdict.refusal != "none" for verdict in harmless) / len(harmless),
            "helpful_rate": sum(verdict.helpfulness > 0 for verdict in harmless) / len(harmless),
        }
    return found
