"""How large the report page of 100,000 pairs is, and how soon it answers, in a headless Chromium.

    python -m benchmarks.report_page        a minute on two cores; figures are in results/report_page.json

The texts are PKU-SafeRLHF's, of ../shared/data: prompts and answers dealt anew, so that no two pairs are the same.
Times are medians of five. First paint and ready are from the start of the navigation, as the browser counts; a filter
or a search is from its value in the field to the list that follows it, without the wait for the next letter. The
searches are for words that few, many and no texts have, each once, since the last one is kept.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.data.columns import MARGIN_COLUMNS
from alignment.reports.page.page_file import write_page
from alignment.reports.page.page_pairs import explored_pairs
from alignment.runs.run_files import RunDir
from tests.reports.browser import browser

RESULTS = Path(__file__).resolve().parent / "results" / "report_page.json"
TEXTS = "../shared/data/pku_saferlhf/safe_unsafe_pairs.json"
PAIRS, TIMES = 100_000, 5
FILTERS = (
    "gamma < 0.2",
    'gap < 0 and category = "S2"',
    "not (chosen_words > 60 or margin >= 1)",
    "against = 2",
    "gamma > 0.9",
)
SEARCHES = ("medicine", "how to make", "the police station", "xylophone", "neighbour money")
FITTED = pa.schema([*MARGIN_COLUMNS, ("gap", pa.float64()), ("gamma", pa.float64())])


def written_run(root: Path) -> RunDir:
    """The pairs of a run's fit_reward, with margins as annotate has them."""
    rows = json.loads(Path(TEXTS).read_text())
    prompts = [row["prompt"] for row in rows]
    answers = [answer for row in rows for answer in row["response"]]
    random = np.random.default_rng(0)
    gaps = random.normal(0.6, 1.5, PAIRS)
    which = random.integers(0, [len(prompts), len(answers), len(answers)], (PAIRS, 3)).tolist()
    pairs = [
        {
            **dict.fromkeys(MARGIN_COLUMNS.names), "id": f"pku-{number:06d}", "source": "pku_saferlhf",
            "prompt": [{"role": "user", "content": prompts[asked]}],
            "chosen": [{"role": "assistant", "content": answers[chosen]}],
            "rejected": [{"role": "assistant", "content": answers[rejected]}],
            "category": f"S{number % 12 + 1}", "harmful": number % 2 == 0, "chosen_severity": number % 4,
            "rejected_severity": number // 4 % 4, "margin": float(np.round(gap)), "margin_raw": gap + 0.5, "gap": gap,
            "gamma": 1 / (1 + np.exp(-gap)),
        }
        for number, ((asked, chosen, rejected), gap) in enumerate(zip(which, gaps.tolist(), strict=True))
    ]  # fmt: skip
    run = RunDir(root)
    run.fitted_pairs.parent.mkdir(parents=True)
    run.page.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(pairs, schema=FITTED), run.fitted_pairs)
    return run


def content() -> dict:
    """A page about nothing but its pairs."""
    told = {"id": "gamma", "title": "γ", "kind": "distribution", "field": "gamma", "by": "severity_gap", "says": ""}
    lists = "headlines notShown warnings stages samples".split()
    return {
        **{name: [] for name in lists},
        **{name: {} for name in ("quarantined", "manifests", "versions", "world")},
        "recipe": "report_page",
        "tables": "",
        "about": [["pairs", f"{PAIRS:,}"]],
        "verdict": {"state": "none", "lines": [], "gates": []},
        "figures": [{**told, "x": "gamma", "y": "pairs", "series": []}],
    }


def set_and_wait(field: str, text: str) -> str:
    """JavaScript that gives a field a value, as its change event does, and tells the milliseconds to the new list."""
    return f"""new Promise((resolve) => {{
        const box = document.getElementById({json.dumps(field)}), from = performance.now();
        box.value = {json.dumps(text)};
        const drawn = () => requestAnimationFrame(() => resolve(performance.now() - from));
        addEventListener("hashchange", drawn, {{ once: true }});
        box.dispatchEvent(new Event("change"));
    }})"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = written_run(Path(folder) / "run")
        started = time.perf_counter()
        pairs = explored_pairs(run, {"fit_reward"}.__contains__)
        write_page(run.page, content(), pairs, None)
        seconds = time.perf_counter() - started
        inside = run.page.stat().st_size / 1e6
        beside = [file.stat().st_size / 1e6 for file in run.page.parent.glob("pairs-*.js")]
        with browser(Path(folder) / "chromium") as tab:
            paints, readies = [], []
            for _ in range(TIMES):
                tab.open(run.page, "#pairs")
                paints.append(tab.value("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                readies.append(tab.value("performance.getEntriesByName('ready')[0].startTime"))
            filters = [tab.value(set_and_wait("filter", text)) for text in FILTERS]
            tab.value(set_and_wait("filter", ""))
            searches = [tab.value(set_and_wait("search", text)) for text in SEARCHES]
            memory = tab.call("Runtime.getHeapUsage")["usedSize"]
            tab.click("#load-all")
            tab.until("document.getElementById('unloaded').innerText === ''")
            tab.value(set_and_wait("search", ""))
            everywhere = [tab.value(set_and_wait("search", text)) for text in SEARCHES]
            memory_all = tab.call("Runtime.getHeapUsage")["usedSize"]
    results = {
        "pairs": PAIRS, "cores": os.cpu_count(), "seconds_to_write": round(seconds, 1), "page_mb": round(inside, 2),
        "files_beside": len(beside), "files_beside_mb": round(sum(beside), 1), "first_paint_ms": _median(paints),
        "ready_ms": _median(readies), "filter_ms": _median(filters), "search_ms": _median(searches),
        "search_with_all_files_ms": _median(everywhere), "heap_mb": round(memory / 1e6),
        "heap_with_all_files_mb": round(memory_all / 1e6),
    }  # fmt: skip
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _median(times: list[float]) -> float:
    return round(statistics.median(times))


if __name__ == "__main__":
    main()
