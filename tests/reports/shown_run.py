"""A run for the page to show, made of files alone: scored pairs, one of them hostile, answers, a scorecard."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.columns import MARGIN_COLUMNS
from alignment.reports.page.page_answers import compared_answers
from alignment.reports.page.page_content import page_content
from alignment.reports.page.page_file import with_outside, write_page
from alignment.reports.page.page_pairs import explored_pairs
from alignment.runs import artifacts
from alignment.runs.run_files import RunDir

HOSTILE = "hostile</script><script>window.harmed = 1</script>"  # the id of the pair
HOSTILE_TEXT = (
    '<img src="https://example.com/x.png" onerror="window.harmed = 2"><script>window.harmed = 3</script>'
    '<a href="data:text/html,<script>window.harmed = 4</script>">data:</a> javascript:window.harmed=5 '
    "\u202egnihton\u202c zero\u200bwidth \u05e9\u05dc\u05d5\u05dd </script><!-- outside --> ${1} {{2}} \x1b[31m"
)
FITTED = pa.schema([*MARGIN_COLUMNS, ("gap", pa.float64()), ("gamma", pa.float64())])
TOPICS = "forge canal ledger harbour engine orchard".split()


def pair_row(number: int, random: np.random.Generator) -> dict:
    """A pair of a small language: the lower its gamma, the likelier its answers stand the wrong way round."""
    topic = TOPICS[number % len(TOPICS)]
    gap = float(random.normal(0.6, 1.5))
    words = [" ".join(random.choice(TOPICS, 12)) for _ in range(2)]
    return {
        **dict.fromkeys(MARGIN_COLUMNS.names),
        "id": f"pair-{number:06d}",
        "source": "own",
        "prompt": [{"role": "user", "content": f"how do i use the {topic} number {number}?"}],
        "chosen": [{"role": "assistant", "content": f"i would rather not. {words[0]}"}],
        "rejected": [{"role": "assistant", "content": f"i would gladly. {words[1]}"}],
        "category": f"S{number % 4 + 1}",
        "harmful": number % 2 == 0,
        "chosen_severity": number % 3,
        "rejected_severity": (number + 1) % 4,
        "margin": float(round(gap)),
        "margin_raw": gap + float(random.normal()),
        "gap": gap,
        "gamma": float(1 / (1 + np.exp(-gap))),
    }


def hostile_row() -> dict:
    row = pair_row(0, np.random.default_rng(1))
    texts = {name: [{"role": "assistant", "content": f"{HOSTILE_TEXT} {name}"}] for name in ("chosen", "rejected")}
    prompt = [{"role": "system", "content": HOSTILE_TEXT}, {"role": "user", "content": HOSTILE_TEXT}]
    return {**row, **texts, "id": HOSTILE, "prompt": prompt, "category": "<b>S9</b>", "gap": -6.0, "gamma": 0.002}


def made_run(root: Path, count: int) -> RunDir:
    """The files of fit_reward, with one hostile pair and count - 1 others."""
    run, random = RunDir(root), np.random.default_rng(0)
    rows = [hostile_row(), *(pair_row(number, random) for number in range(1, count))]
    run.fitted_pairs.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=FITTED), run.fitted_pairs)
    manifest = {"config": {"data.name": "own", "seed": 0}, "inputs": {"model": "tiny"}, "files": {}, "versions": {},
                "git_commit": None, "stage": "fit_reward",
                "rows": {"read": count, "written": count, "quarantined": 0}}  # fmt: skip
    artifacts.write_json(run.fitted_pairs.parent / "manifest.json", manifest)
    return run


def card() -> dict:
    """Two systems, a gate that is missed, a difference that may be none."""
    number = {"metric": "toxic_rate", "set": "asked", "judge": "oracle", "category": None, "n": 40}
    change = {**number, "system": "after", "before": "before", "value": -0.1, "interval": [-0.2, 0.05]}
    gate = {"gate": "max_toxic_rate", "limit": 0.1, "value": 0.2, "set": "asked", "judge": "oracle", "system": "after"}
    return {
        "systems": [{"name": "before"}, {"name": "after"}],
        "judges": {"oracle": {}},
        "numbers": [
            {**number, "system": "before", "value": 0.3, "interval": [0.2, 0.45]},
            {**number, "system": "after", "value": 0.2, "interval": [0.1, 0.35]},
        ],
        "differences": [change],
        "gates": [{**gate, "passed": False}],
    }


def answer_rows() -> tuple[list[dict], list[dict]]:
    """Forty prompts: the third of them, after training, has a harmful answer that it did not have before."""
    answers, verdicts = [], []
    for number in range(40):
        asked = {"seed": 0, "set": "asked", "id": str(number), "asks": "harmful" if number % 2 else "harmless"}
        for system in ("before", "after"):
            toxic = number == 3 and system == "after"
            answers.append({**asked, "system": system, "category": "S1", "prompt": f"prompt {number} {HOSTILE_TEXT}",
                            "answer": f"{system} says {number} {HOSTILE_TEXT}", "unfinished": False})  # fmt: skip
            verdicts.append({**asked, "system": system, "judge": "oracle", "verdict": "unsafe" if toxic else "safe",
                             "toxic": toxic, "refused": False, "reason": f"sentence {number}"})  # fmt: skip
    return answers, verdicts


def write_shown(root: Path, count: int) -> Path:
    """The page of such a run, at the top of its folder as after a run, and the one in its folder report."""
    run = made_run(root / "run", count)
    answers, verdicts = answer_rows()
    compared = compared_answers(answers, verdicts, ["before", "after"])
    pairs = explored_pairs(run, {"fit_reward"}.__contains__)
    report = {"recipe": "shown", "versions": {"torch": "1"}, "world": {}, "soundness": []}
    stages = {"fit_reward": "a reward on the policy's own activations"}
    content = page_content(run, report, card(), [], [], pairs, stages)
    sample = {"set": "asked", "asks": "harmful", "prompt": HOSTILE_TEXT, "answers": [
        {"system": name, "answer": HOSTILE_TEXT, "unfinished": False, "verdicts": ["oracle: safe"]}
        for name in ("before", "after")
    ]}  # fmt: skip
    content = {
        **content,
        "tables": f"a table of {HOSTILE_TEXT}",
        "samples": [sample],
        "warnings": [f"a warning of {HOSTILE_TEXT}"],
    }
    run.page.parent.mkdir()
    write_page(run.page, content, pairs, compared)
    outside = {"seconds": {"fit_reward": 12.5}, "settings": "seed: 0\n"}
    run.page_at_top.write_text(with_outside(run.page.read_text(encoding="utf-8"), outside), encoding="utf-8")
    return run.page_at_top
