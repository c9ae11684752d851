"""What the figures of own data say, and that they can be drawn of one pair as of many."""

import numpy as np
import pytest

from alignment.maths.statistics import wilson_interval
from alignment.reports.pictures import best_figure, policy_figures, reward_figures, scorecard_figure
from alignment.reports.reward_models import reward_models

BINNING = {"edges": [-0.5, 0.0, 0.5], "negative": "keep"}


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """All texts of the figures that are drawn."""
    texts: list[str] = []

    def keep(figure, path) -> None:
        figure.canvas.draw()
        texts.extend(text.get_text() for text in figure.findobj(match=lambda one: hasattr(one, "get_text")))
        reward_figures.plt.close(figure)

    monkeypatch.setattr(reward_figures, "save", keep)
    return texts


def pairs(count: int, known: bool) -> list[dict]:
    return [
        {"margin_raw": float(np.sin(i)), "harmful": True if known else None,
         "chosen_severity": i % 3 if known else None, "rejected_severity": 1 if known else None}
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 40, 4000])
def test_margins_without_known_gaps_speak_of_none(count, drawn, tmp_path):
    reward_figures.draw_margins(pairs(count, known=False), None, BINNING, tmp_path / "a.png")
    n = f"{count:,}{'*' if count < 30 else ''}"
    assert any(text.startswith(f"Margins of held-out pairs, n = {n}: ") for text in drawn)
    assert not any("gap" in text or "wrong" in text for text in drawn)


def test_margins_by_gap_have_n_and_the_share_above_0(drawn, tmp_path):
    reward_figures.draw_margins(pairs(39, known=True), "severity", BINNING, tmp_path / "a.png")
    assert {"gap", "above 0", "+1", "0", "\N{MINUS SIGN}1", "13*"} <= set(drawn)
    assert "Margins of 39 held-out pairs by true severity gap (rejected minus chosen)" in drawn
    assert any("orange: the label is wrong" in text for text in drawn)


@pytest.mark.parametrize(("count", "seeds"), [(1, 1), (40, 1), (40, 2)])
def test_accuracy_of_own_data_has_one_row_with_n_and_says_what_bars_are(count, seeds, drawn, tmp_path):
    scores = [
        {"margins": "legend", "seed": seed, "set": "heldout", "harmful": None, "severity_gap": None, "prompt_hash": i,
         "chosen_score": float(i % (3 + seed)), "rejected_score": 0.5}
        for seed in range(seeds) for i in range(count)
    ]  # fmt: skip
    reward_figures.draw_accuracy(reward_models(scores), tmp_path / "a.png")
    assert "all pairs" in drawn and "heldout" not in drawn and f"n = {count}{'*' if count < 30 else ''}" in drawn
    over = "over seeds; ticks: seeds" if seeds > 1 else "over pairs, of one seed"
    assert any(text.startswith(f"bars: 95% intervals {over}; dotted: by chance") for text in drawn)


def test_layers_have_intervals_and_n(drawn, tmp_path, monkeypatch):
    bars = []
    axes = reward_figures.plt.Axes
    plot = axes.plot
    monkeypatch.setattr(axes, "plot", lambda self, x, y, *a, **how: bars.append(list(y)) or plot(self, x, y, *a, **how))
    quality = {
        "layers": [{"layer": 1, "precision": None, "pair_accuracy": 0.5},
                   {"layer": 2, "precision": 0.75, "pair_accuracy": 1.0}],
        "ci95": {"pair_accuracy": [0.5, 0.9], "layers": [{"precision": None, "pair_accuracy": [0.25, 0.75]},
                                                      {"precision": [0.5, 0.875], "pair_accuracy": [None, None]}]},
        "soft": 0.75, "gate": "uniform", "pairs": {"heldout": 40},
    }  # fmt: skip
    reward_figures.draw_layers(quality, tmp_path / "a.png")
    assert [25.0, 75.0] in bars and [50.0, 87.5] in bars
    assert any(text.startswith("n = 40 held-out pairs; bars, band: 95% intervals") for text in drawn)


@pytest.mark.parametrize("count", [1, 40])
def test_a_card_marks_few_and_draws_no_bar_of_one(count, drawn, tmp_path):
    interval = wilson_interval(0, count)
    number = {
        "metric": "refusal_rate", "system": "base", "set": "own", "judge": "refusal", "category": None, "value": 0.0,
        "interval": list(interval[1:]), "n": count,
    }  # fmt: skip
    card = {"systems": [{"name": "base"}], "numbers": [number], "differences": []}
    scorecard_figure.draw_card(card, tmp_path / "a.png")
    assert f"refusal, n = {count}{'*' if count < 30 else ''}" in drawn
    assert any("fewer than 30" in text for text in drawn) is (count == 1)


def test_n_of_the_best_of_n_and_of_a_grid(drawn, tmp_path):
    rates = {"toxic_rate": 0.5, "over_refusal": 0.25, "helpful_rate": 0.5}
    best = {**rates, "ci95": {rate: [None, None] for rate in rates}, "prompts": dict.fromkeys(rates, 1)}
    best_figure.draw_best_of_n({"hybrid": {"1": best, "2": best}}, tmp_path / "a.png")
    assert "n = 1 prompts; bands: 95% intervals over prompts" in drawn
    point = {"system": "dpo", "beta": 0.1, "learning_rate": 1e-4, "seeds": 2, "rates": rates, "chosen": True}
    policy_figures.draw_grid([point] * 3, "200 validation prompts, half of them harmful", tmp_path / "a.png")
    assert "200 validation prompts, half of them harmful; a mark: the mean over 2 seeds" in drawn
