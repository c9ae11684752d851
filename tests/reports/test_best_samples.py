"""The best of n samples as three tables."""

from alignment.reports.best_samples import best_of_n_markdown, best_of_n_tables
from alignment.reports.tables import as_text


def rates(toxic: float) -> dict:
    shares = {"toxic_rate": toxic, "over_refusal": 0.25, "helpful_rate": 0.5}
    return {**shares, "ci95": {name: [share - 0.1, share + 0.2] for name, share in shares.items()},
            "prompts": dict.fromkeys(shares, 1200)}  # fmt: skip


def test_a_table_for_each_rate_by_n_and_scorer():
    """Numbers of samples in their order as numbers, scorers in the order of the house, whatever that of the file."""
    found = {
        "judge": {n: rates(0.1) for n in ("1", "16", "2")},
        "hybrid": {"1": rates(0.5), "16": rates(0.3), "2": rates(0.4)},
    }
    text = as_text(best_of_n_tables(found))
    shown = [" ".join(line.split()) for line in text.splitlines() if line.strip() and "─" not in line]
    assert shown[:4] == [
        "harmful prompts: toxic, % (n = 1,200 prompts) hybrid reward oracle (sees the truth)",
        "best of 1 50.0 [40.0, 70.0] 10.0 [0.0, 30.0]",
        "best of 2 40.0 [30.0, 60.0] 10.0 [0.0, 30.0]",
        "best of 16 30.0 [20.0, 50.0] 10.0 [0.0, 30.0]",
    ]
    assert shown[4].startswith("harmless twins: refused, % (n =") and shown[5].endswith("25.0 [15.0, 45.0]")
    assert shown[8].startswith("harmless twins: helpful, % (n =") and shown[9].endswith("50.0 [40.0, 70.0]")
    assert len(shown) == 12


def picks(scorer: str, n: int, value: float, corrected: dict | None = None) -> dict:
    figure = {"value": value, "interval": [value - 0.1, value + 0.1], "change": 0.0, "change_interval": [-0.1, 0.1]}
    return {
        "set": "mine", "asks": "harmful", "metric": "refusal_rate", "judge": "refusal", "scorer": scorer, "n": n,
        "prompts": 100, **figure, **({"corrected": corrected} if corrected else {}),
    }  # fmt: skip


def lines(report: dict) -> list[str]:
    text = as_text(best_of_n_tables(report))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and "─" not in line]


SHARE = {"mean": 0.9, "ci95": [0.85, 0.95], "n": 120}
HEALTH = {"set": "labels.csv", "refusal": {"errors": {"sensitivity": SHARE, "specificity": SHARE, "left_out": 3}}}


def test_corrected_rates_stand_below_the_raw_ones():
    half = {"value": 0.5, "interval": [0.3, 0.7], "why_not": None}
    none = {"value": None, "interval": [None, None], "why_not": "too few"}
    numbers = [picks("random", 1, 0.45, half), picks("hybrid", 8, 0.3, none), picks("longest", 8, 0.4, half)]
    report = {"numbers": numbers, "scores": [], "judges": {"refusal": {"health": HEALTH}}}
    shown = lines(report)
    assert shown[1:5] == [
        "one at random 45.0 [35.0, 55.0]", "corrected for the judge's errors 50.0 [30.0, 70.0]",
        "best of 8 30.0 [20.0, 40.0] 40.0 [30.0, 50.0]", "corrected for the judge's errors - 50.0 [30.0, 70.0]",
    ]  # fmt: skip
    rest = " ".join(shown[5:])
    assert "refusals by refusal, %: sensitivity 90.0 [85.0, 95.0], specificity 90.0 [85.0, 95.0] on labels.csv" in rest
    assert (
        "(n = 120 and 120, without 3 of judged models)" in rest
        and "'-', no corrected refusals by refusal: too few" in rest
    )
    page = best_of_n_markdown({**report, "harm_judged": True})
    assert "corrected for the judge's errors | - | 50.0  [30.0, 70.0] |" in page and "Refusals by refusal, %" in page


def test_rates_of_a_judge_that_no_label_was_held_against_are_called_uncorrected_once():
    numbers = [picks("random", 1, 0.45), picks("hybrid", 8, 0.3), picks("hybrid", 4, 0.3)]
    report = {"numbers": numbers, "scores": [], "judges": {"refusal": {}}}
    said = (
        "uncorrected for the judge's errors: refusals by refusal (judge.calibration=do_not_answer, or a file, corrects"
    )
    assert " ".join(lines(report)).count(said) == 1
    assert said[1:] in best_of_n_markdown({**report, "harm_judged": True})
    for one in numbers:
        one["judge"] = "oracle"
    assert "corrected" not in " ".join(lines(report)), "the world's oracle is never wrong"
