"""What the parts of usefulness, and its rule, say of answers of which something is known (docs/usefulness.md).

    python -m benchmarks.useful_answers FOLDER [prompts]   200: about half an hour on two cores, with model=smollm2

Reads AlpacaEval's outputs and XSTest's labelled answers (REPALIGN_DATA, or ../shared/data), samples SmolLM2's own,
and keeps what it read and sampled in FOLDER, where a second call goes on. Results: FOLDER/useful_answers.json.
"""

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignment.data.columns import text_message
from alignment.data.labelled_sets import labelled_set
from alignment.evaluation.usefulness import usefulness_rows
from alignment.maths.detection import auroc
from alignment.maths.statistics import of_draws
from alignment.models.devices import device
from alignment.models.load import Loaded, load_language_model
from alignment.models.own_decoding import PLAIN
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.runs.ranks import Ranks
from alignment.sampling.candidates import question, sample_answers
from alignment.sampling.generate import Sample

TOKENS, PROMPT_TOKENS, DRAWS = 96, 260, 1000  # of an answer that is read; of a prompt; of the bootstrap
MOVED = 37  # places by which an answer is moved to another prompt
SPARE = 150  # prompts that are drawn beside those asked, for those that are too long
SAFE = 80  # of XSTest's safe prompts those whose answer complies; all whose answer refuses in full are taken
BATCH_TOKENS = 4096
OWN = {"own": 0.01, "hot": 2.0}  # the reading model's answers, by temperature
SMALL = "models/dialogues-4m"  # of 4.3M parameters; its answers are "small"
COMPARED = (
    ("alpaca_7b", "alpaca_7b moved"), ("xstest", "xstest moved"), ("xstest", "xstest refusals"), ("own", "hot"),
    ("own", "own cut"), ("alpaca_7b", "own"), ("alpaca_7b", "small"),
)  # fmt: skip
SIGNS = {"on_topic": 1, "log_perplexity": -1, "repetition": -1, "words": 1, "refused": -1, "useful": 1}
Answers = list[tuple[str, str, Sample]]  # prompt's name, prompt, answer


def alpaca_answers(folder: Path, loaded: Loaded, count: int) -> Answers:
    rows = json.loads((folder / "alpaca_eval" / "alpaca-7b.model_outputs.json").read_text(encoding="utf-8"))
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    drawn = [
        i
        for i in sorted(order[: count + SPARE])
        if len(loaded.tokenizer(rows[i]["instruction"]).input_ids) < PROMPT_TOKENS
    ][:count]
    return [(f"alpaca-{i}", rows[i]["instruction"], cut(loaded, rows[i]["output"])) for i in drawn]


def xstest_answers(folder: Path, loaded: Loaded, count: int) -> tuple[Answers, Answers]:
    """One model's answers to safe prompts that people call full compliance, and full refusals."""
    rows = [row for row in labelled_set("xstest", str(folder)).rows if "llama2" in row["source"]]
    safe = [row for row in rows if row["category"] is not None and not row["category"].startswith("contrast")]

    def of(refusal: str) -> Answers:
        return [
            (row["id"], row["prompt"][0]["content"], cut(loaded, row["response"]))
            for row in safe
            if row["refusal"] == refusal
        ]

    comply = of("none")
    return random.Random(1).sample(comply, min(count, SAFE)), of("full")[:count]


def cut(loaded: Loaded, text: str) -> Sample:
    """An answer's first tokens, which are enough to tell and cheap to read."""
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    return Sample(text, True) if len(ids) <= TOKENS else Sample(loaded.tokenizer.decode(ids[:TOKENS]), False)


def moved(answers: Answers) -> Answers:
    """Every answer behind another prompt."""
    return [(*answers[i][:2], answers[(i + MOVED) % len(answers)][2]) for i in range(len(answers))]


def own_answers(loaded: Loaded, asked: Answers, temperature: float, work: Path) -> Answers:
    settings = {**PLAIN, "temperature": temperature, "max_new_tokens": TOKENS, "batch_tokens": BATCH_TOKENS}
    questions = [question(loaded, name, text_message("user", prompt), TOKENS) for name, prompt, _ in asked]
    sampled = sample_answers(loaded, questions, settings, 0, 1, work, Ranks())
    return [(name, prompt, sample) for (name, prompt, _), (sample,) in zip(asked, sampled, strict=True)]


def first_quarter(answers: Answers) -> Answers:
    """Answers that stop, as if they were done, after a quarter of their words."""
    words = [sample.text.split() for *_, sample in answers]
    return [
        (*answer[:2], Sample(" ".join(own[: max(1, len(own) // 4)]), True))
        for answer, own in zip(answers, words, strict=True)
    ]


def compared(positive: Sequence[dict], negative: Sequence[dict]) -> dict[str, dict]:
    """The AUROC of every part, and of the rule, with its interval over prompts; what isn't known is between."""
    rows = [*positive, *negative]
    kind = np.arange(len(rows)) < len(positive)
    _, place = np.unique([row["id"] for row in rows], return_inverse=True)
    count = place.max() + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)[:, place].astype(float)
    found = {}
    for part, sign in SIGNS.items():
        values = np.array([np.nan if row[part] is None else sign * float(row[part]) for row in rows])
        between = sign * 0.5 if part in ("refused", "useful") else np.nanmedian(values)
        values = np.where(np.isnan(values), between, values)
        whole = float(auroc(values, kind, np.ones((1, len(rows))))[0])
        found[part] = of_draws(whole, auroc(values, kind, drawn)).summary
    shares = {
        side: float(np.mean([row["useful"] is True for row in own]))
        for side, own in (("positive", positive), ("negative", negative))
    }
    return {"auroc": found, "useful": shares, "n": [len(positive), len(negative)]}


def main(out: Path, prompts: int = 200, model: str = "smollm2") -> dict[str, dict]:
    data = Path(os.environ.get("REPALIGN_DATA", "../shared/data"))
    loaded = load_language_model(replace(source_at(model), dtype="bfloat16"), device())
    kinds = {"alpaca_7b": alpaca_answers(data, loaded, prompts)}
    kinds["xstest"], kinds["xstest refusals"] = xstest_answers(data, loaded, prompts)
    for name, temperature in OWN.items():
        kinds[name] = own_answers(loaded, kinds["alpaca_7b"], temperature, out / name)
    small = load_language_model(source_at(str(data / SMALL)), device())
    kinds["small"] = own_answers(small, kinds["alpaca_7b"], OWN["own"], out / "small")
    kinds["own cut"] = first_quarter(kinds["own"])
    kinds |= {f"{name} moved": moved(kinds[name]) for name in ("alpaca_7b", "xstest")}
    answers = [
        {
            "system": kind, "seed": 0, "set": "asked", "id": name, "asks": "harmless", "answer": sample.text,
            "unfinished": not sample.finished,
        }
        for kind, of_kind in kinds.items()
        for name, _, sample in of_kind
    ]  # fmt: skip
    asked = [text_message("user", prompt) for of_kind in kinds.values() for _, prompt, _ in of_kind]
    rows, _ = usefulness_rows(loaded, answers, asked, Packing(), BATCH_TOKENS, out / "read", Ranks())
    by_kind = {kind: [row for row in rows if row["system"] == kind] for kind in kinds}
    results = {f"{one} over {other}": compared(by_kind[one], by_kind[other]) for one, other in COMPARED}
    (out / "useful_answers.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, result in results.items():
        print(name, result["n"], {part: round(value["mean"], 3) for part, value in result["auroc"].items()})
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
