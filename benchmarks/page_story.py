"""Wrong labels found with the report page, corrected, and what that changed, in the embedded world.

    python -m benchmarks.page_story        some ten minutes on two cores; figures are in results/page_story.json

For each of five seeds: `fit_reward` on 1,000 pairs, a quarter of their labels drawn to be wrong; its page in a headless
Chromium, sorted by gamma; a reader who goes down the list with j, sees of every pair whether its label is wrong, marks
ten wrong ones with f, and exports. With that file as data.corrections the reward is fitted again. Both rewards rank
the same 3,000 pairs with true labels. Beside it what it would bring to correct all wrong labels among the lowest 200.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from alignment.inputs.pairs import evaluation_pairs
from alignment.maths.detection import auroc
from alignment.maths.paired import paired_difference
from alignment.maths.statistics import t_interval, wilson_interval
from alignment.models.devices import device
from alignment.models.hybrid_quality import ordered_right
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import load_backbone
from alignment.models.packing import Packing
from alignment.models.pair_states import pair_states, whole_pairs
from alignment.models.source import model_source
from alignment.run import run_recipe
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import RunDir
from alignment.settings.compose import compose_config
from alignment.world.preferences import Drawing, training_pairs
from tests.reports.browser import Browser, browser

RESULTS = Path(__file__).resolve().parent / "results" / "page_story.json"
SEEDS, PAIRS, LOWEST, FOUND = range(5), 1000, 200, 10


def fitted(root: Path, seed: int, name: str, corrections: Path | None) -> RunDir:
    """A run of fit_reward with its page."""
    given = [] if corrections is None else [f"data.corrections={corrections}"]
    settings = ["+recipe=cdpo", "stages=[fit_reward,report]", f"reward.pairs={PAIRS}", f"seed={seed}", *given]
    run = RunDir(root / f"{name}-{seed}")
    run_recipe(compose_config([*settings, f"run.dir={run.root}"]))
    return run


def wrong_labels(seed: int) -> dict[str, bool]:
    """By id: is the label another one than without noise?"""
    cfg = compose_config(["+recipe=cdpo", f"seed={seed}"]).data
    drawn = []
    for noise in (cfg.noise, 0.0):
        drawing = Drawing(seed, noise, cfg.noise_kind, cfg.length, cfg.double_edged)
        drawn.append({row["id"]: row["chosen"] for row in training_pairs(PAIRS, drawing)})
    return {name: chosen != drawn[1][name] for name, chosen in drawn[0].items()}


def read(tab: Browser, run: RunDir, wrong: dict[str, bool]) -> tuple[Path, int]:
    """What the reader exports, and how many pairs were read for it."""
    (tab.downloads / "flags.jsonl").unlink(missing_ok=True)
    tab.open(run.page_at_top, "#pairs?sort=gamma")
    marked = looked = 0
    while marked < FOUND:
        before = tab.text("#pair-title")
        tab.press("j")
        tab.until(f"document.getElementById('pair-title').innerText !== {json.dumps(before)}")
        looked += 1
        if wrong[tab.text("#pair-title")]:
            tab.press("f")
            marked += 1
    tab.click("#export")
    return tab.downloaded("flags.jsonl"), looked


def rights(run: RunDir, seed: int, folder: Path) -> np.ndarray:
    """Of every pair with a true label whether the run's reward ranks it right."""
    cfg = compose_config(["+recipe=cdpo", f"seed={seed}"])
    loaded = load_backbone(model_source(cfg.model), device())
    items = {name: whole_pairs(part, loaded, 256, None) for name, part in evaluation_pairs(cfg).items()}
    packing = Packing(**cfg.packing)
    states = pair_states(items, loaded, packing, cfg.reward.pooling, cfg.reward.batch_tokens, folder, Ranks(), None)
    reward = HybridReward.load(run.hybrid_reward)
    return np.concatenate([ordered_right(*map(reward.score, part.unbind(1))) for part in states.values()]).astype(float)


def told(tab: Browser, folder: Path, seed: int) -> dict:
    """The figures of one seed."""
    wrong = wrong_labels(seed)
    first = fitted(folder, seed, "before", None)
    rows = sorted(pq.read_table(first.fitted_pairs, columns=["id", "gamma"]).to_pylist(), key=lambda row: row["gamma"])
    truth = np.array([wrong[row["id"]] for row in rows])
    doubt = -np.array([row["gamma"] for row in rows])
    file, looked = read(tab, first, wrong)
    flags = folder / f"flags-{seed}.jsonl"
    flags.write_bytes(file.read_bytes())
    lines = [{"id": row["id"], "action": "flip"} for row in rows[:LOWEST] if wrong[row["id"]]]
    more = folder / f"more-{seed}.jsonl"
    more.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    runs = {"before": first, "ten": fitted(folder, seed, "ten", flags), "all": fitted(folder, seed, "all", more)}
    right = {name: rights(run, seed, folder / f"states-{name}-{seed}") for name, run in runs.items()}
    prompts, random = np.arange(len(right["before"])), np.random.default_rng(0)
    gains = {name: paired_difference(right["before"], right[name], prompts, random) for name in ("ten", "all")}
    return {
        "seed": seed,
        "wrong": int(truth.sum()),
        "wrong_among_lowest": int(truth[:LOWEST].sum()),
        "read_for_ten": looked,
        "auroc": float(auroc(doubt, truth, np.ones((1, len(truth))))[0]),
        "ranked_right": {name: float(values.mean()) for name, values in right.items()},
        "gain": {name: list(gain) for name, gain in gains.items()},
        "corrected_in_all": len(lines),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder) / "chromium") as tab:
        seeds = [told(tab, Path(folder), seed) for seed in SEEDS]
    wrong, lowest = (sum(one[name] for one in seeds) for name in ("wrong", "wrong_among_lowest"))
    results = {
        "seeds": seeds,
        "wrong": list(wilson_interval(wrong, PAIRS * len(seeds))),
        "wrong_among_lowest": list(wilson_interval(lowest, LOWEST * len(seeds))),
        "read_for_ten": [one["read_for_ten"] for one in seeds],
        "auroc": list(t_interval([one["auroc"] for one in seeds])),
        "gain": {name: list(t_interval([one["gain"][name][0] for one in seeds])) for name in ("ten", "all")},
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "seeds"}, indent=2))


if __name__ == "__main__":
    main()
