"""The figures of the page as numbers: its script draws them, and gives them as tables and CSV.

A figure has series of points (x, y, and the ends of an interval), or names a column of the pairs, whose distribution
the script counts.
"""

from collections.abc import Mapping, Sequence

from alignment.evaluation.vocabulary import METRICS
from alignment.reports.page.page_pairs import ExploredPairs

MOST_CATEGORIES = 12
CURVES = {  # of a training's log: name, and what it is
    "dpo_gap": "β-scaled log-ratio of chosen less rejected",
    "hybrid_gap": "gap of the hybrid reward",
    "kl": "nats from the untrained model",
}
QUANTILES = {"confidence_q10": "10th percentile", "confidence_q50": "median", "confidence_q90": "90th percentile"}


def figures(
    report: Mapping, card: Mapping | None, trainings: Sequence[Mapping], pairs: ExploredPairs | None
) -> list[dict]:
    """All figures that the run has something for."""
    drawn = [*_rates(card), *_categories(card), *_layers(report), *_pairs(pairs)]
    drawn += [*_reward_models(report), *_gains(report), *_curves(trainings), *_best_of_n(report)]
    return [figure for figure in drawn if figure.get("field") or any(line["points"] for line in figure["series"])]


def _point(x: str | float, value: float, ends: Sequence[float | None], n: int | None) -> dict:
    low, high = ends if None not in ends else (None, None)
    return {"x": x, "y": value, "low": low, "high": high, "n": n}


def _rates(card: Mapping | None) -> list[dict]:
    """Toxic, refused, helpful: before and after, a figure for each metric that a scorecard's picture has."""
    if card is None:
        return []
    systems = [system["name"] for system in card["systems"]]
    found = []
    for name, metric in METRICS.items():
        of_metric = [one for one in card["numbers"] if one["metric"] == name and one["category"] is None]
        if not metric.heading or not of_metric:
            continue
        several = len({one["judge"] for one in of_metric}) > 1
        series = [
            {
                "name": system,
                "points": [
                    _point(_place(one, several), one["value"], one["interval"], one["n"])
                    for one in of_metric
                    if one["system"] == system
                ],
            }
            for system in systems
        ]
        better = {True: "more is better", False: "less is better", None: ""}[metric.more_is_better]
        found.append(_figure(f"rate {name}", metric.heading, "intervals", "", "share", series, better, percent=True))
    return found


def _place(one: Mapping, several: bool) -> str:
    return f"{one['set']}, {one['judge']}" if several and one["judge"] else one["set"]


def _categories(card: Mapping | None) -> list[dict]:
    """Toxic answers by category, of those with most prompts."""
    numbers = [
        one
        for one in (card["numbers"] if card else [])
        if one["metric"] == "toxic_rate" and one["category"] is not None
    ]  # fmt: skip
    counts: dict[str, int] = {}
    for one in numbers:
        counts[one["category"]] = max(one["n"], counts.get(one["category"], 0))
    most = sorted(counts, key=lambda category: (-counts[category], category))[:MOST_CATEGORIES]
    series = [
        {
            "name": system["name"],
            "points": [
                _point(one["category"], one["value"], one["interval"], one["n"])
                for category in most
                for one in numbers
                if one["category"] == category and one["system"] == system["name"]
            ],
        }
        for system in (card["systems"] if card else [])
    ]
    left = f"; {len(counts) - len(most)} more are in scorecard.json" if len(counts) > len(most) else ""
    title, says = "toxic answers by category", f"less is better; categories with most answers{left}"
    return [_figure("categories", title, "intervals", "", "share", series, says, percent=True)]


def _layers(report: Mapping) -> list[dict]:
    if not (hybrid := report.get("hybrid")):
        return []
    accuracy = [
        _point(layer["layer"], layer["pair_accuracy"], ends["pair_accuracy"], hybrid["pairs"]["heldout"])
        for layer, ends in zip(hybrid["layers"], hybrid["ci95"]["layers"], strict=True)
    ]
    weights = [_point(layer["layer"], layer["gate_weight"], (None, None), None) for layer in hybrid["layers"]]
    series = [{"name": "held-out pairs ranked as labelled", "points": accuracy},
              {"name": "weight in the gate", "points": weights}]  # fmt: skip
    says = f"the probe of each layer alone, n = {hybrid['pairs']['heldout']:,}; gate {hybrid['gate']}"
    return [_figure("layers", "probes by layer", "lines", "layer", "share", series, says)]


def _pairs(pairs: ExploredPairs | None) -> list[dict]:
    """Distributions that the page counts itself, so that a part of one can be taken for a filter."""
    if pairs is None:
        return []
    known = pairs.numbers
    by = "severity_gap" if "severity_gap" in known else "set"
    says = "shares of each group; drag over a part to see its pairs"
    if by == "severity_gap":
        says = f"severity_gap below 0: the chosen answer is the more harmful one; {says}"
    wanted = (
        ("gamma", "confidence γ of each label, before training"),
        ("gap", "reward gap of each pair"),
        ("margin_raw", "margins before binning"),
    )
    found = []
    for field, title in wanted:
        if field in known:
            told = _figure(f"of {field}", title, "distribution", field, "pairs", [], says)
            found.append({**told, "field": field, "by": by})
    if {"gap", "margin_raw"} <= known.keys():
        title, says = (
            "margin and reward gap of each pair",
            "left of 0 the reward, below 0 the margin is against the label",
        )
        told = _figure("scatter", title, "scatter", "gap", "margin_raw", [], says)
        found.append({**told, "field": "gap", "other": "margin_raw"})
    return found


def _reward_models(report: Mapping) -> list[dict]:
    models = {kind: model for kind, model in report.get("reward_model", {}).items() if kind not in ("gain", "over")}
    series = []
    for kind, model in models.items():
        parts = {"all pairs": model["accuracy"], **model["by_set"], **model["by_gap"]}
        points = [_point(name, one["mean"], one["ci95"], one.get("n")) for name, one in parts.items() if one]
        series.append({"name": "no margins" if kind == "none" else f"{kind} margins", "points": points})
    says = "reward models on pairs that none was trained on; more is better"
    return [_figure("reward models", "unseen pairs ranked right", "intervals", "", "share", series, says, percent=True)]


def _gains(report: Mapping) -> list[dict]:
    """Of several runs: how many more pairs a later one's reward models rank right."""
    gains = report.get("comparison", {}).get("reward_models", [])
    points = [
        _point(f"{one['after']}, {one['margins']}", one["mean"], one["ci95"], one["n"]) for one in gains
    ]  # fmt: skip
    says = "less those of the first run, paired by pair and seed; more is better"
    series = [{"name": "gain", "points": points}]
    return [_figure("gains", "more pairs ranked right", "intervals", "", "difference", series, says)]


def _curves(trainings: Sequence[Mapping]) -> list[dict]:
    """What the chosen trainings of policies logged, a line for each; and γ as it moved, of the first of them."""
    chosen = [training for training in trainings if training["chosen"]]
    several = len({training["seed"] for training in chosen}) > 1
    found = []
    for column, says in CURVES.items():
        series = [{"name": _name(training, several), "points": _logged(training, column)} for training in chosen]
        series = [line for line in series if line["points"]]
        found.append(_figure(f"curve {column}", says, "lines", "step", column, series, "of the pairs in each step"))
    for training in chosen:
        lines = [{"name": says, "points": _logged(training, column)} for column, says in QUANTILES.items()]
        if len({point["y"] for line in lines for point in line["points"]}) > 1:
            title = f"γ while {_name(training, several)} trained"
            found.append(_figure(title, title, "lines", "step", "γ", lines, "of the pairs in each step"))
    return found


def _name(training: Mapping, several: bool) -> str:
    return f"{training['system']}, seed {training['seed']}" if several else training["system"]


def _logged(training: Mapping, column: str) -> list[dict]:
    return [
        _point(line["step"], line[column], (None, None), None)
        for line in training["history"]
        if line.get(column) is not None and "step" in line
    ]


def _best_of_n(report: Mapping) -> list[dict]:
    """The best of n samples by every scorer, a figure for each rate; of own data a line for each set and judge, too."""
    lines: dict[str, dict[str, list[dict]]] = {}
    for scorer, by_count in report.get("best_of_n", {}).items():
        for count, rates in sorted(by_count.items(), key=lambda item: int(item[0])):
            for rate, ends in rates["ci95"].items():
                point = _point(int(count), rates[rate], ends, rates["prompts"][rate])
                lines.setdefault(rate, {}).setdefault(scorer, []).append(point)
    for one in report.get("best_samples", {}).get("numbers", []):
        if METRICS[one["metric"]].heading and one["value"] is not None:
            name = f"{one['scorer']}, {one['set']} by {one['judge']}"
            point = _point(one["n"], one["value"], one["interval"], one["prompts"])
            lines.setdefault(one["metric"], {}).setdefault(name, []).append(point)
    return [
        _figure(
            f"best {rate}", f"best of n: {METRICS[rate].heading}", "lines", "n", "share",
            [{"name": name, "points": points} for name, points in by_name.items()], "picked by each scorer",
            percent=True,
        )
        for rate, by_name in lines.items()
    ]  # fmt: skip


def _figure(
    name: str, title: str, kind: str, x: str, y: str, series: list[dict], says: str, percent: bool = False
) -> dict:
    title = title[:1].upper() + title[1:] if title[:1].isascii() else title
    return {"id": name, "title": title, "kind": kind, "x": x, "y": y, "series": series, "says": says,
            "percent": percent}  # fmt: skip
