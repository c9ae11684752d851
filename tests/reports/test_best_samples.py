"""The best of n samples as three tables."""

from alignment.reports.best_samples import best_of_n_tables
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
