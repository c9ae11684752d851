"""Where a live confidence helps: confidence DPO beside DPO and fixed confidences, by the kind of wrong labels.

    python -m benchmarks.noise_kinds [folder=runs/noise_kinds]        about an hour on two cores

In the embedded world, where truth is known: 4,000 given pairs of which a quarter is labelled wrong (at random, where
answers are close, in one category, or by one careless annotator), every system with the same pairs, updates and seeds.
What each run came to is kept as soon as it is there; a command given again goes on with the first that is missing.
Results are in results/noise_kinds.json and noise_kinds.png.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alignment.maths.statistics import t_interval
from alignment.reports.pictures.reward_figures import note, picture
from benchmarks import arguments

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "noise_kinds.json"
KINDS = {
    "random": "at random", "close": "close answers", "category": "one category", "annotator": "one annotator",
}  # fmt: skip
FIXED = ("fixed_70", "fixed_80", "fixed_90")
SYSTEMS = ("dpo", *FIXED, "cdpo")
SEEDS = (0, 1, 2, 3, 4)
STEPS = 250  # of 16 pairs: once over 4,000
DEFAULTS = {"folder": "runs/noise_kinds"}

Rates = dict[str, dict[str, list[float]]]  # of a kind of noise: system, rate, a value for each seed


def main(argv: Sequence[str]) -> None:
    folder = Path(arguments.read(argv, DEFAULTS)["folder"]).resolve()
    found: dict[str, Rates] = json.loads(RESULTS.read_text())["rates"] if RESULTS.exists() else {}
    for kind in KINDS:
        if kind not in found:
            found[kind] = _rates_of(kind, folder / kind)
            record = {"steps": STEPS, "seeds": SEEDS, "rates": found, "differences": differences(found)}
            RESULTS.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    draw(found, RESULTS.with_suffix(".png"))


def _rates_of(kind: str, folder: Path) -> Rates:
    """The rates of every system by seed, the mean over the world's three sets of prompts."""
    command = [
        sys.executable, "-m", "alignment.run", "+recipe=table1",
        "stages=[fit_reward,train_dpo,train_cdpo,evaluate,report]",
        f"data.noise_kind={kind}", "data.noise=0.25", f"policy.systems=[base,{','.join(SYSTEMS)}]",
        f"policy.max_steps={STEPS}", f"policy.seeds=[{','.join(map(str, SEEDS))}]", f"run.dir={folder}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    evaluation = json.loads((folder / "evaluate" / "evaluation.json").read_text())
    shutil.rmtree(folder)
    return {
        system: {
            rate: [float(np.mean([of_set[rate] for of_set in of_seed.values()])) for of_seed in by_seed]
            for rate in ("toxic_rate", "helpful_rate", "over_refusal")
        }
        for system, by_seed in evaluation.items()
    }


def best_fixed(rates: Rates) -> str:
    """The fixed confidence with the lowest toxic rate on the very prompts that are compared: the strongest there is."""
    return min(FIXED, key=lambda system: np.mean(rates[system]["toxic_rate"]))


def differences(found: Mapping[str, Rates]) -> dict[str, dict]:
    """Confidence DPO's rates minus DPO's and the best fixed confidence's, paired by seed, with their t intervals."""
    result: dict[str, dict] = {}
    for kind, rates in found.items():
        for other in ("dpo", best_fixed(rates)):
            for rate in ("toxic_rate", "helpful_rate"):
                paired = np.subtract(rates["cdpo"][rate], rates[other][rate])
                result.setdefault(kind, {}).setdefault(f"cdpo minus {other}", {})[rate] = list(t_interval([*paired]))
    return result


def draw(found: Mapping[str, Rates], path: Path) -> None:
    """Toxic rates by kind of noise: DPO, the best fixed confidence, confidence DPO."""
    looks = {"dpo": ("#c4702f", "DPO"), "fixed": ("#9aa5b1", "best fixed confidence"), "cdpo": ("#1f6f8b", "cDPO")}
    with picture(path, figsize=(6.4, 3.2)) as axis:
        for number, (system, (colour, label)) in enumerate(looks.items()):
            for place, rates in enumerate(found.values()):
                name = best_fixed(rates) if system == "fixed" else system
                values = 100 * np.array(rates[name]["toxic_rate"])
                mean, *ends = t_interval(values.tolist())
                x, bar = place + 0.22 * (number - 1), None if None in ends else np.abs(np.subtract(ends, mean))[:, None]
                named = label if not place else None
                axis.errorbar(x, mean, bar, fmt="o", color=colour, capsize=3, label=named)
                axis.plot([x] * len(values), values, ".", color=colour, alpha=0.35, markersize=4)
                if system == "fixed":
                    axis.annotate(f"0.{name[-2]}", (x, mean), textcoords="offset points", xytext=(6, -3), fontsize=7)
        axis.set_xticks(range(len(found)), [KINDS[kind] for kind in found])
        axis.set_xlabel("which quarter of the labels is wrong")
        axis.set_title("harmful prompts: toxic answers, %")
        axis.set_ylim(bottom=0)
        note(axis, f"embedded world, {STEPS} updates, {len(SEEDS)} seeds; bars: 95% intervals over seeds (Student's t)")
        axis.grid(axis="y")
        axis.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main(sys.argv[1:])
