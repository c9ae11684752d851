"""What margins must beat, by hand: length, token embeddings, random directions, and one margin for all pairs."""

import numpy as np
import pytest

from alignment.maths.margins import Binning
from alignment.models.annotation_quality import gap_lines, paired_gain, quality
from alignment.models.annotator import RawMargins

EVERY = np.ones(4, dtype=bool)
BINS = Binning((0.0,), (-1.0, 3.0), "bin")


def rows(*gaps: float) -> list[dict]:
    unknown = dict.fromkeys(
        [f"{side}_{kind}" for side in ("chosen", "rejected") for kind in ("severity", "helpfulness")]
    )
    return [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "harmful": True, "given_margin": gap, **unknown}
        for i, gap in enumerate(gaps)
    ]


def margins(raw: list[float], longer: list[int], random: list[list[float]] | None = None) -> RawMargins:
    random = random or [[1.0, -1.0]] * len(raw)
    return RawMargins(np.array(raw), np.array(random), np.array(longer), 0, 0)


def test_baselines_by_hand():
    given = rows(1.0, 2.0, 3.0, 4.0)
    read = margins([1.0, 2.0, 3.0, -1.0], [5, 2, 0, -1], [[1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 0.0]])
    found = quality(given, read, np.array([1.0, -1.0, 1.0, 1.0]), EVERY, BINS, gap_lines(given, read.raw, EVERY))
    found = found["baselines"]
    assert found["pairs"] == 4
    assert (found["length"]["safer"], found["length"]["mean"]) == ("longer", 2.5 / 4)
    assert found["token_embeddings"]["mean"] == 0.75 and found["token_embeddings"]["ci95"][0] < 0.75
    assert found["random"]["range"] == [1.5 / 4, 0.75] and found["random"]["mean"] == pytest.approx(
        (0.75 + 1.5 / 4) / 2
    )
    assert found["margins"] == {"mean": 2.0, "std": pytest.approx(np.sqrt(3))}  # 3, 3, 3, -1
    assert found["explained"]["severity"] is None


def test_a_constant_margin_explains_as_much_as_margins_that_say_nothing():
    """The line is the training pairs': on others it may be worse than their mean."""
    train, raw = rows(1.0, 2.0, 3.0, 4.0), np.array([1.0, 2.0, 3.0, 4.0])
    lines = gap_lines(train, raw, EVERY)
    assert lines["given"] == pytest.approx((1.0, 0.0, 2.5)) and lines["severity"] is None

    def explained(raw: list[float]) -> float:
        read = margins(raw, [0, 0, 0, 0])
        return quality(rows(1.0, 2.0, 3.0, 4.0), read, embedded, EVERY, BINS, lines)["baselines"]["explained"]["given"]

    embedded = np.zeros(4)
    assert explained([1.0, 2.0, 3.0, 4.0])["mean"] == pytest.approx(1.0)
    assert explained([2.5] * 4)["mean"] == pytest.approx(0.0)
    turned = explained([4.0, 3.0, 2.0, 1.0])  # squared errors 9, 1, 1, 9 against 2.25, 0.25, 0.25, 2.25
    assert turned["mean"] == pytest.approx(-3.0) and turned["pairs"] == 4


def test_a_gain_is_paired():
    """Two of four pairs are ranked right by one and wrong by the other, one the other way round, one by neither."""
    gain = paired_gain(rows(1, 1, 1, 1), np.array([1.0, 1, -1, -1]), np.array([-1.0, -1, 1, -1]), EVERY)
    assert (gain["pairs"], gain["mean"]) == (4, 0.25) and gain["ci95"][0] < 0.25 < gain["ci95"][1]
    assert paired_gain(rows(1), np.ones(1), np.ones(1), np.zeros(1, dtype=bool)) is None


def test_no_pair_in_scope_has_no_baselines():
    read = margins([1.0], [0])
    found = quality(rows(1.0), read, np.ones(1), np.zeros(1, dtype=bool), BINS, dict.fromkeys(("given",)))
    assert found["baselines"] is None
