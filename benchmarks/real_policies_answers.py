"""Twenty answers before and after a training of the experiment (real_policies.py), for a reader: docs/real_answers.md.

    python -m benchmarks.real_policies_answers [folder=runs/policies] [system=cdpo_star] [flips=0]

The prompts are drawn by a committed seed from all that were asked: twelve harmful ones, eight harmless ones. An answer
that a judge of harm calls toxic is shown by its first words alone.
"""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.reports.markdown import markdown_table, quoted
from alignment.reports.pair_overview import plain
from alignment.runs.artifacts import read_rows
from benchmarks import arguments
from benchmarks.real_policies import RESULTS, Cell
from benchmarks.real_policies_table import GUARD, HARMLESS, REFUSAL, REFUSED, TOXIC, WORDS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "real_answers.md"
DEFAULTS = {"folder": "runs/policies", "system": "cdpo_star", "flips": 0}
DRAWN = {False: 12, True: 8}  # by whether they are harmless
DRAWING = 20  # the seed
SHOWN, OF_TOXIC = 60, 6  # words
JUDGES = {GUARD: "guard", WORDS: "words", REFUSAL: "refusal judge"}

Verdicts = Mapping[str, Mapping[str, Mapping[str, Sequence]]]  # of a judge, a set and an id


def main(argv: Sequence[str]) -> None:
    given = arguments.read(argv, DEFAULTS)
    cells = [Cell("base", 0.0, 0), Cell(given["system"], given["flips"] / 100, 0)]
    texts, verdicts = {}, {}
    for cell in cells:
        path = Path(given["folder"]) / "answers" / f"{cell.name}.parquet"
        record = RESULTS / f"{cell.name}.json"
        for needed in (path, record):
            if not needed.exists():
                arguments.stop(f"{needed} is missing: python -m benchmarks.real_policies only={cell.name} makes it")
        texts[cell.system] = {(row["set"].removesuffix(".jsonl"), row["id"]): row for row in read_rows(path)}
        verdicts[cell.system] = json.loads(record.read_text())["verdicts"]
    PAGE.write_text("\n".join(page(texts, verdicts)) + "\n")


def page(texts: Mapping[str, Mapping[tuple[str, str], dict]], verdicts: Mapping[str, Verdicts]) -> list[str]:
    """texts: of each system, its answers by set and id."""
    base, other = texts
    lines = [
        "# Answers before and after", "",
        "SmolLM2-135M-Instruct as it is (`base`) and after a training of the experiment in "
        f"[real_models.md](real_models.md) (`{other}`, seed 0),",
        f"to twenty prompts drawn by a seed ({DRAWING}) from all {len(texts[base]):,} that were asked: no figure, but "
        "what figures are of.",
        f"At most {SHOWN} words of an answer; of one that a judge of harm calls toxic the first {OF_TOXIC}.",
        "`python -m benchmarks.real_policies_answers` writes this page.",
    ]  # fmt: skip
    for number, name in enumerate(drawn(texts[base]), 1):
        asked = texts[base][name]
        kind = "harmless" if asked["asks"] == HARMLESS else "harmful"
        rows = [
            [system, shown(texts[system][name]["answer"], verdicts[system], name), said(verdicts[system], name)]
            for system in texts
        ]
        lines += ["", f"{number}. {kind}, `{name[0]}`: {quoted(plain(asked['prompt']))}", ""]
        lines += markdown_table(["", "answer", "judged"], rows, named=1)
    return lines


def drawn(asked: Mapping[tuple[str, str], dict]) -> list[tuple[str, str]]:
    """The prompts that are shown, the harmful ones first."""
    random_order = random.Random(DRAWING)
    found = []
    for harmless, count in DRAWN.items():
        names = sorted(name for name, row in asked.items() if (row["asks"] == HARMLESS) == harmless)
        found += random_order.sample(names, min(count, len(names)))
    return found


def shown(answer: str, verdicts: Verdicts, name: tuple[str, str]) -> str:
    words = answer.split()
    toxic = any(_verdict(verdicts, judge, name)[TOXIC] for judge in (GUARD, WORDS))
    limit = OF_TOXIC if toxic else SHOWN
    left_out = len(words) - limit
    text = quoted(plain(" ".join(words[:limit]))) or "(nothing)"
    if left_out <= 0:
        return text
    return f"{text} [{left_out} more words{', left out' if toxic else ''}]"


def said(verdicts: Verdicts, name: tuple[str, str]) -> str:
    """What each judge says: toxic or not, refused or not, or nothing."""
    parts = []
    for judge, called in JUDGES.items():
        place, yes, no = (REFUSED, "refuses", "answers") if judge == REFUSAL else (TOXIC, "toxic", "safe")
        value = _verdict(verdicts, judge, name)[place]
        parts.append(f"{called}: {'cannot say' if value is None else yes if value else no}")
    return "; ".join(parts)


def _verdict(verdicts: Verdicts, judge: str, name: tuple[str, str]) -> Sequence:
    return verdicts[judge].get(name[0], {}).get(name[1], [None, None, None, None])


if __name__ == "__main__":
    main(sys.argv[1:])
