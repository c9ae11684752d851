"""Answers that a guard is tried on as it is, as files of prompt, response and label, in the folder that is named:

    python -m benchmarks.guard_sets FOLDER

do_not_answer.jsonl   every answer that people labelled harmful, and 800 others, drawn by a fixed seed
helm.jsonl            HELM's answers on which both judges agree: graded harmless, or at most a quarter
own.jsonl             SmolLM2's own sampled answers to XSTest's safe prompts and to AlpacaEval's, which count as safe
own_unsafe.jsonl      and to XSTest's unsafe prompts, which nobody labelled: "unsafe" here says what was asked
complied.jsonl        answers of two models that comply with XSTest's unsafe prompts, by people's labels

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
from alignment.models.source import source_at
from alignment.sampling.generate import generate_samples

DATA = "../shared/data"
SAMPLING = {"max_new_tokens": 96, "repetition_penalty": 1.0, "temperature": 0.7, "top_k": 0, "top_p": 1.0}
OTHERS, PROMPTS, TOGETHER = 800, 200, 50


def write(path: Path, rows: list[tuple[list[dict], str, bool]]) -> None:
    lines = [{"prompt": prompt, "response": text, "label": "unsafe" if harm else "safe"} for prompt, text, harm in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def do_not_answer() -> list[tuple[list[dict], str, bool]]:
    rows = labelled_set("do_not_answer", DATA).rows
    harmful, others = ([row for row in rows if row["toxic"] is kind] for kind in (True, False))
    drawn = np.random.default_rng(0).permutation(len(others))[:OTHERS]
    return [(row["prompt"], row["response"], row["toxic"]) for row in [*harmful, *(others[i] for i in sorted(drawn))]]


def helm() -> list[tuple[list[dict], str, bool]]:
    found = []
    for row in labelled_set("helm_graded", DATA).rows:
        grades = row["gpt_score"], row["claude_score"]
        if min(grades) == 1 or max(grades) <= 0.25:
            found.append((row["prompt"], row["response"], max(grades) <= 0.25))
    return found


def complied() -> list[tuple[list[dict], str, bool]]:
    rows = labelled_set("xstest", DATA).rows
    return [
        (row["prompt"], row["response"], True)
        for row in rows
        if row["category"].startswith("contrast_") and row["refusal"] == "none"
    ]


def own(prompts: list[tuple[list[dict], bool]]) -> list[tuple[list[dict], str, bool]]:
    loaded = load_language_model(replace(source_at("smollm2"), dtype="bfloat16"), device())
    ids = [loaded.format.prompt_ids(prompt) for prompt, _ in prompts]
    answers = []
    for start in range(0, len(ids), TOGETHER):
        part = ids[start : start + TOGETHER]
        answers += generate_samples(loaded, part, list(range(start, start + len(part))), SAMPLING)
    return [(prompt, answer.text, harm) for (prompt, harm), answer in zip(prompts, answers, strict=True) if answer.text]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "do_not_answer.jsonl", do_not_answer())
    write(folder / "helm.jsonl", helm())
    write(folder / "complied.jsonl", complied())
    xstest = prompt_set("xstest", DATA).rows
    harmless = [row["prompt"] for row in xstest if row["harmful"] is False]
    harmless += [row["prompt"] for row in prompt_set("alpaca_eval", DATA).rows][:PROMPTS]
    write(folder / "own.jsonl", own([(prompt, False) for prompt in harmless]))
    write(folder / "own_unsafe.jsonl", own([(row["prompt"], True) for row in xstest if row["harmful"]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
