"""The tables of the experiment on policies, of what benchmarks/results/real_policies/ holds by now:

    python -m benchmarks.real_policies_table

A line for each system and share of wrong labels, and the differences that the protocol names (docs/real_models.md).
Rates are means over seeds and prompts; intervals, 95%, are of 2,000 draws of prompts and seeds at once, or of prompts
alone where there is one seed. Two systems are compared on the seeds that both have.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from alignment.maths.prevalence import Errors, corrected_rate
from alignment.maths.statistics import LEVELS, RESAMPLES
from alignment.policies.systems import SYSTEMS
from alignment.reports.pictures.policy_figures import draw_rewards
from benchmarks.real_policies import RESULTS

PICTURES = RESULTS.parent.parent.parent / "docs" / "images"
Key = tuple[str, float]  # a system, and the share of wrong labels
Values = Float[np.ndarray, "seed prompt"]  # 1, 0, or NaN where nobody can say

HARMFUL, UNKNOWN, HARMLESS = "harmful", "unknown", "harmless"
GUARD, WORDS, REFUSAL = "probe", "words", "refusal"
TOXIC, REFUSED = 0, 1  # places in a verdict
COMPARED = (("cdpo", "dpo"), ("cdpo_star", "dpo_star"), ("cdpo_star", "fixed_90_star"), ("cdpo_star", "rs_star"))


def main() -> None:
    cells, judge = read(RESULTS), json.loads((RESULTS / "judge.json").read_text())
    print(*table(cells), "", *differences(cells), "", *corrections(cells, guard_errors(judge)), sep="\n")
    print("", *costs(cells), sep="\n")
    for flips in sorted({flips for _, flips in cells}):
        draw_rewards(trainings(cells, flips), PICTURES / f"real_policies_rewards_{100 * flips:.0f}.png")


def read(folder: Path) -> dict[Key, dict[int, dict]]:
    """The cells that are there: of each system and share of wrong labels, by seed."""
    cells: dict[Key, dict[int, dict]] = {}
    for file in sorted(folder.glob("*-seed-*.json")):
        record = json.loads(file.read_text())
        cell = record["cell"]
        cells.setdefault((cell["system"], cell["flips"]), {})[cell["seed"]] = record
    return cells


# ---- rates ----------------------------------------------------------------------------------------------------------


def verdicts(records: Mapping[int, dict], judge: str, place: int, asks: tuple[str, ...]) -> dict[int, dict[str, float]]:
    """By seed and prompt, what a judge said of answers to prompts of these kinds."""
    return {
        seed: {
            f"{name}/{prompt}": np.nan if verdict[place] is None else float(verdict[place])
            for name, of_set in record["verdicts"][judge].items()
            for prompt, verdict in of_set.items()
            if verdict[3] in asks
        }
        for seed, record in records.items()
    }


def useful(records: Mapping[int, dict]) -> dict[int, dict[str, float]]:
    return {
        seed: {
            f"{name}/{prompt}": np.nan if parts[0] is None else float(parts[0])
            for name, of_set in record["useful"].items()
            for prompt, parts in of_set.items()
            if name == "alpaca_eval"
        }
        for seed, record in records.items()
    }


def answers(records: Mapping[int, dict], place: int) -> dict[int, dict[str, float]]:
    """Words of answers (0), or whether they were cut off (1)."""
    return {
        seed: {prompt: float(parts[place]) for prompt, parts in record["answers"].items()}
        for seed, record in records.items()
    }


FIGURES: dict[str, Callable[[Mapping[int, dict]], dict[int, dict[str, float]]]] = {
    "toxic, guard": lambda records: verdicts(records, GUARD, TOXIC, (HARMFUL, UNKNOWN)),
    "toxic, words": lambda records: verdicts(records, WORDS, TOXIC, (HARMFUL, UNKNOWN)),
    "refused, harmful": lambda records: verdicts(records, REFUSAL, REFUSED, (HARMFUL, UNKNOWN)),
    "refused, harmless": lambda records: verdicts(records, REFUSAL, REFUSED, (HARMLESS,)),
    "useful": useful,
    "cut off": lambda records: answers(records, 1),
}


def aligned(by_seed: Mapping[int, Mapping[str, float]], seeds: list[int]) -> Values:
    """A row for each of these seeds; the prompts are the same in all."""
    prompts = sorted(by_seed[seeds[0]])
    if any(sorted(by_seed[seed]) != prompts for seed in seeds):
        raise ValueError("seeds were asked different prompts")
    return np.array([[by_seed[seed][prompt] for prompt in prompts] for seed in seeds])


def interval(values: Values, seed: int = 0) -> tuple[float, float, float]:
    """The mean of what is known, and its interval over prompts and seeds."""
    generator, (seeds, prompts) = np.random.default_rng(seed), values.shape
    known, filled = ~np.isnan(values), np.nan_to_num(values)
    draws = []
    for _ in range(RESAMPLES):
        rows = np.bincount(generator.integers(seeds, size=seeds), minlength=seeds) if seeds > 1 else np.ones(1)
        columns = np.bincount(generator.integers(prompts, size=prompts), minlength=prompts)
        if count := rows @ known @ columns:
            draws.append((rows @ filled @ columns) / count)
    low, high = np.quantile(draws, LEVELS)
    return float(np.nanmean(values)), float(low), float(high)


def table(cells: Mapping[Key, Mapping[int, dict]]) -> list[str]:
    """A line for each system, as Markdown."""
    heads = ["system", "wrong labels", "seeds", *(f"{name}, %" for name in FIGURES), "words", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (system, flips), records in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        seeds = sorted(records)
        rates = [percent(interval(aligned(figure(records), seeds))) for figure in FIGURES.values()]
        words = np.mean([list(by_prompt.values()) for by_prompt in answers(records, 0).values()])
        minutes = np.mean([records[seed]["seconds"] for seed in seeds]) / 60
        cells_of = [system, f"{flips:.0%}", str(len(seeds)), *rates, f"{words:.0f}", f"{minutes:.0f}"]
        lines.append("| " + " | ".join(cells_of) + " |")
    return lines


def differences(cells: Mapping[Key, Mapping[int, dict]]) -> list[str]:
    """cDPO against DPO and against a fixed confidence, and each system against the base model, in points."""
    heads = ["difference", "wrong labels", "seeds", *(f"{name}, points" for name in FIGURES)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    wanted = [((system, flips), ("base", 0.0)) for system, flips in sorted(cells, key=lambda key: (key[1], key[0]))]
    wanted = [pair for pair in wanted if pair[0] != pair[1]]
    shares = sorted({flips for _, flips in cells})
    wanted = [((ours, flips), (theirs, flips)) for ours, theirs in COMPARED for flips in shares] + wanted
    for ours, theirs in wanted:
        seeds = sorted(set(cells.get(ours, {})) & set(cells.get(theirs, {})))
        if seeds:
            points = [
                percent(
                    interval(aligned(figure(cells[ours]), seeds) - aligned(figure(cells[theirs]), seeds)), signed=True
                )
                for figure in FIGURES.values()
            ]
            name = f"{ours[0]} minus {theirs[0]}"
            lines.append("| " + " | ".join([name, f"{ours[1]:.0%}", str(len(seeds)), *points]) + " |")
    return lines


def percent(figures: tuple[float, float, float], signed: bool = False) -> str:
    mean, low, high = (100 * figure for figure in figures)
    return f"{mean:{'+z' if signed else 'z'}.1f} [{low:z.1f}, {high:z.1f}]"


# ---- trainings ------------------------------------------------------------------------------------------------------


def trainings(cells: Mapping[Key, Mapping[int, dict]], flips: float) -> list[dict]:
    """What the trainings with this share of wrong labels logged, as pictures take them."""
    return [
        {"system": system, "pairs": training["pairs"], "history": training["history"]}
        for (system, share), records in sorted(cells.items())
        if share == flips
        for record in records.values()
        for training in record["training"]
    ]


def costs(cells: Mapping[Key, Mapping[int, dict]]) -> list[str]:
    """Seconds and memory of the stages that train, where the records have them: the mean, and the most, over seeds."""
    lines = ["| training | wrong labels | trainings | minutes | memory at most, GB |", "|---|---|---|---|---|"]
    for (system, flips), records in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        stage = SYSTEMS[system].stage
        found = [record["stages"][stage] for record in records.values() if stage in record.get("stages", {})]
        if found:
            minutes, held = np.mean([one["seconds"] for one in found]) / 60, max(one["bytes"] for one in found) / 1e9
            lines.append(f"| {system} | {flips:.0%} | {len(found)} | {minutes:.1f} | {held:.1f} |")
    return lines


# ---- corrected for the guard's errors -------------------------------------------------------------------------------


def guard_errors(judge: Mapping) -> dict[str, Errors]:
    """The guard's errors on answers to other prompts of the set it was fitted on, and on those of other models.

    judge: results/real_policies/judge.json.
    """
    fitted, generator = judge["folds"], np.random.default_rng(0)
    harmful, safe = fitted["harmful"], fitted["answers"] - fitted["harmful"]
    hits, cleared = round(fitted["sensitivity"]["mean"] * harmful), round(fitted["specificity"]["mean"] * safe)
    alone = [[hits, 1, 1, 0, 0], [harmful - hits, 1, 0, 0, 0], [cleared, 0, 0, 1, 1], [safe - cleared, 0, 0, 1, 0]]
    other = judge["calibration"]["toxic"]["errors"]["by_prompt"]
    return {
        "folds": Errors([row for row in alone if row[0]], generator),
        judge["calibration"]["set"]: Errors(other, generator),
    }


def corrections(cells: Mapping[Key, Mapping[int, dict]], errors: Mapping[str, Errors]) -> list[str]:
    """The guard's toxic rate of each system, raw and corrected by each set of labelled answers."""
    heads = ["system", "wrong labels", "toxic, guard, %", *(f"corrected by {name}, %" for name in errors)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (system, flips), records in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        values = aligned(FIGURES["toxic, guard"](records), sorted(records))
        rates = [corrected(values, of_set) for of_set in errors.values()]
        shown = [percent(interval(values)), *("-" if rate is None else percent(rate) for rate in rates)]
        lines.append("| " + " | ".join([system, f"{flips:.0%}", *shown]) + " |")
    return lines


def corrected(values: Values, errors: Errors) -> tuple[float, float, float] | None:
    """The rate behind the guard's; None if its errors hardly explain it."""
    places = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    known = ~np.isnan(values)
    found = corrected_rate(values[known], places[known], errors, np.random.default_rng(0))
    return None if found is None or found.low is None else (found.mean, found.low, found.high)


if __name__ == "__main__":
    main()
