"""What the tables and the picture of a cross-validation say."""

from alignment.maths.hybrid import GATES
from alignment.reports.pictures import fold_figures, reward_figures
from alignment.reports.scorer_comparison import SCORERS, comparison_tables
from alignment.reports.tables import as_text


def summary(mean: float, half: float | None = 0.02) -> dict:
    return {"mean": mean, "ci95": [None, None] if half is None else [mean - half, mean + half]}


def measures(mean: float) -> dict:
    return {"pair_accuracy": summary(mean), "auroc": summary(mean), "tpr_at_1_percent_fpr": summary(mean / 4)}


def report() -> dict:
    means = {name: 0.76 - 0.02 * place for place, name in enumerate(SCORERS)}
    scorers = {name: measures(mean) for name, mean in means.items()}
    for name, found in scorers.items():
        if name != "uniform":
            found["minus_gate"] = measures(means[name] - means["uniform"])
        if name != "words":
            found["minus_baseline"] = {"pair_accuracy": summary(0.0, None), "auroc": summary(0.01)}
    return {
        "folds": 5, "pooling": "endpoint", "gate": "uniform", "best_baseline": "words", "pairs": 2507, "prompts": 443,
        "answers": {"chosen": 1000, "rejected": 1200, "on_both_sides": 84}, "scorers": scorers,
        "layers": [{"layer": layer, "pair_accuracy": summary(0.6 + layer / 300)} for layer in range(1, 31)],
    }  # fmt: skip


def shown(text: str) -> str:
    return " ".join(text.split())


def test_every_scorer_with_its_intervals_and_what_is_left_out():
    quality, differences = (shown(as_text([table])) for table in comparison_tables(report()))
    assert "5 folds by prompt pairs ranked right, %, n = 2,507 AUROC, %, n = 2,200" in quality
    assert "mean of all probes < 70.0 [68.0, 72.0] 70.0 [68.0, 72.0] 17.5 [15.5, 19.5]" in quality
    assert "words alone = 60.0" in quality and "1,000 chosen and 1,200 rejected, each once" in quality
    assert "84 that are both are left out" in quality and "443 prompts" in quality
    assert "gate sigmoid_scores +6.0 [4.0, 8.0] +6.0 [4.0, 8.0] 0.0 +1.0" in differences
    assert "picked in hindsight" in differences


def test_few_prompts_pairs_are_marked_and_a_recipe_with_fewer_scorers_has_fewer_rows():
    few = report() | {"pairs": 20}
    del few["scorers"]["length"]
    text = as_text(comparison_tables(few))
    assert "n = 20*" in text and "fewer than 30" in shown(text) and "length" not in text


def test_the_picture_has_every_scorer_and_every_layer(monkeypatch, tmp_path):
    texts: list[str] = []

    def keep(figure, path) -> None:
        figure.canvas.draw()
        texts.extend(text.get_text() for text in figure.findobj(match=lambda one: hasattr(one, "get_text")))
        reward_figures.plt.close(figure)

    monkeypatch.setattr(reward_figures, "save", keep)
    fold_figures.draw_comparison(report(), GATES, tmp_path / "picture.png")
    assert set(SCORERS.values()) <= set(texts) and "2,507 pairs of 443 prompts, 5 folds" in texts
    assert "76.0" in texts and "a ridge on one layer" in texts
