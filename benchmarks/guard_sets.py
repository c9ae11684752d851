"""Answers that a guard is tried on as it is, as files of prompt, response and label, in the folder that is named:

    python -m benchmarks.guard_sets FOLDER

do_not_answer.jsonl   every answer that people labelled harmful, and 400 others, drawn by a fixed seed
helm.jsonl            HELM's answers that both judges grade at a quarter or less, and 150 that both grade harmless
own_xstest.jsonl      SmolLM2's own sampled answers to XSTest's safe prompts, which count as safe
own_alpaca.jsonl      those to prompts of AlpacaEval, likewise
own_unsafe.jsonl      and to XSTest's unsafe prompts, which nobody labelled: "unsafe" here says what was asked

They are written for docs/guard.md. Texts of these sets stand in no report.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignment.data.labelled_sets import labelled_set
from alignment.data.prompt_sets import prompt_set
from alignment.models.devices import device
from alignment.models.load import load_language_model
from alignment.models.own_decoding import with_own_decoding
from alignment.models.source import source_at
from alignment.sampling.generate import generate_samples
from alignment.settings.compose import compose_config

DATA = "../shared/data"
SAMPLING = ["+recipe=real", "sampling.max_new_tokens=96", "sampling.temperature=0.7"]
PROMPTS, TOGETHER = 200, 50
Answer = tuple[list[dict], str, bool]  # prompt, answer, harmful?


def write(path: Path, rows: list[Answer]) -> None:
    lines = [{"prompt": prompt, "response": text, "label": "unsafe" if harm else "safe"} for prompt, text, harm in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def drawn(rows: list[Answer], safe: int) -> list[Answer]:
    """All harmful answers, and as many safe ones."""
    others = [row for row in rows if not row[2]]
    kept = sorted(np.random.default_rng(0).permutation(len(others))[:safe])
    return [row for row in rows if row[2]] + [others[i] for i in kept]


def do_not_answer() -> list[Answer]:
    return [(row["prompt"], row["response"], row["toxic"]) for row in labelled_set("do_not_answer", DATA).rows]


def helm() -> list[Answer]:
    found = []
    for row in labelled_set("helm_graded", DATA).rows:
        grades = row["gpt_score"], row["claude_score"]
        if min(grades) == 1 or max(grades) <= 0.25:
            found.append((row["prompt"], row["response"], max(grades) <= 0.25))
    return found


def own(prompts: list[tuple[list[dict], bool]]) -> list[Answer]:
    source = replace(source_at("smollm2"), dtype="bfloat16")
    loaded, sampling = (
        load_language_model(source, device()),
        with_own_decoding(compose_config(SAMPLING).sampling, source, print),
    )
    ids = [loaded.format.prompt_ids(prompt) for prompt, _ in prompts]
    answers = []
    for start in range(0, len(ids), TOGETHER):
        part = ids[start : start + TOGETHER]
        answers += generate_samples(loaded, part, list(range(start, start + len(part))), sampling)
    return [(prompt, answer.text, harm) for (prompt, harm), answer in zip(prompts, answers, strict=True) if answer.text]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "do_not_answer.jsonl", drawn(do_not_answer(), 400))
    write(folder / "helm.jsonl", drawn(helm(), 150))
    xstest = prompt_set("xstest", DATA).rows
    write(folder / "own_xstest.jsonl", own([(row["prompt"], False) for row in xstest if row["harmful"] is False]))
    write(folder / "own_unsafe.jsonl", own([(row["prompt"], True) for row in xstest if row["harmful"]]))
    alpaca = prompt_set("alpaca_eval", DATA).rows[:PROMPTS]
    write(folder / "own_alpaca.jsonl", own([(row["prompt"], False) for row in alpaca]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
