"""How good margins are: agreement with labels and with the truth where it is known, and what simpler things would do.

Intervals are over prompts, since pairs of one prompt are alike. Only pairs in scope count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignment.data.same_prompts import prompt_text
from alignment.maths.margins import Binning
from alignment.maths.metrics import distribution, ordered_right, spearman
from alignment.maths.statistics import bootstrap, prompt_interval, rate_interval
from alignment.models.annotator import RawMargins

MANY = 5000  # pairs whose intervals take longer to draw than they are worth
GAPS = ("severity", "helpfulness", "given")


class Line(NamedTuple):
    """The line of gaps on margins, and the gaps' mean: what margins, and what a constant, say of a gap."""

    slope: float
    intercept: float
    mean: float


def quality(
    rows: Sequence[dict],
    margins: RawMargins,
    token_embeddings: np.ndarray,
    scope: np.ndarray,
    binning: Binning,
    lines: dict[str, Line | None],
) -> dict:
    """Of one part of the data: distribution, signs, length, agreement with the truth where it is known, baselines.

    token_embeddings: the margins of layer 0 (layer_zero.py). lines: `gap_lines` of the training pairs.
    """
    inside, outside = margins.raw[scope], margins.raw[~scope]
    gaps = {kind: _gaps(rows, kind) for kind in GAPS}
    return {
        "pairs": len(rows),
        "in_scope": len(inside),
        "no_end": margins.no_end,
        "truncated": margins.truncated,
        "distribution": distribution(inside),
        "length_correlation": spearman(inside, margins.length_difference[scope].astype(float)),
        "ranked_right": ranked_right(rows, margins.raw, scope),
        "out_of_scope": {"pairs": len(outside), "distribution": distribution(outside)},  # what they would have got
        **{kind: _agreement(rows, margins.raw, gaps[kind], scope, binning) for kind in GAPS},
        "baselines": _baselines(rows, margins, token_embeddings, gaps, scope, binning, lines),
    }


def ranked_right(rows: Sequence[dict], raw: np.ndarray, scope: np.ndarray) -> dict | None:
    """The share of pairs whose margin has the label's sign, where a margin of 0 counts half; with its interval."""
    if not scope.any():
        return None
    right = (raw[scope] > 0) + (raw[scope] == 0) / 2
    return rate_interval(right, _prompts(rows, scope), np.random.default_rng(0)).summary


def paired_gain(rows: Sequence[dict], raw: np.ndarray, other: np.ndarray, scope: np.ndarray) -> dict | None:
    """How many more pairs `raw` ranks as labelled than `other` does: a difference of shares, over the same prompts."""
    if not scope.any():
        return None
    zero = np.zeros(int(scope.sum()))
    difference = ordered_right(raw[scope], zero) - ordered_right(other[scope], zero)
    found = prompt_interval(difference, _prompts(rows, scope), np.random.default_rng(0), (-1.0, 1.0))
    return {"pairs": len(zero), **found.summary}


def _prompts(rows: Sequence[dict], used: np.ndarray) -> np.ndarray:
    """The number of each used row's prompt: pairs of one prompt are alike."""
    prompts = [prompt_text(row["prompt"]) for row, is_used in zip(rows, used, strict=True) if is_used]
    return np.unique(prompts, return_inverse=True)[1]


def _correlation(raw: np.ndarray, gaps: np.ndarray, prompts: np.ndarray) -> list | None:
    """The interval of a rank correlation over prompts drawn with replacement."""
    draws = 1000 if len(prompts) < MANY else 100
    random = np.random.default_rng(0)
    found = bootstrap(lambda drawn: {"spearman": spearman(raw[drawn], gaps[drawn])}, prompts, random, draws)["spearman"]
    return None if found is None or found.low is None else [found.low, found.high]


def _agreement(
    rows: Sequence[dict], raw: np.ndarray, gaps: np.ndarray, scope: np.ndarray, binning: Binning
) -> dict | None:
    """Rank correlation with the true gaps: signed, binned, and of the sizes alone (how big, not which way)."""
    known = scope & ~np.isnan(gaps)
    if not known.any():
        return None
    raw, gaps = raw[known], gaps[known]
    return {
        "pairs": len(raw),
        "spearman": spearman(raw, gaps),
        "spearman_ci95": _correlation(raw, gaps, _prompts(rows, known)),
        "spearman_binned": spearman(binning(raw), gaps),
        "spearman_size": spearman(abs(raw), abs(gaps)),
    }


def _gaps(rows: Sequence[dict], kind: str) -> np.ndarray:
    """How much better chosen truly is, signed; NaN where that isn't known or doesn't matter for the prompt.

    Severity doesn't matter for harmless prompts, nor helpfulness for harmful ones.
    """
    if kind == "given":
        return np.array([np.nan if row["given_margin"] is None else row["given_margin"] for row in rows], dtype=float)
    sign, without = (-1, False) if kind == "severity" else (1, True)
    gaps = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        chosen, rejected = row[f"chosen_{kind}"], row[f"rejected_{kind}"]
        if chosen is not None and rejected is not None and row["harmful"] is not without:
            gaps[i] = sign * (chosen - rejected)
    return gaps


# ---- what simpler things would do -----------------------------------------------------------------------------------


def _baselines(
    rows: Sequence[dict],
    margins: RawMargins,
    token_embeddings: np.ndarray,
    gaps: dict[str, np.ndarray],
    scope: np.ndarray,
    binning: Binning,
    lines: dict[str, Line | None],
) -> dict | None:
    """Ranked as labelled by length alone, by the answers' token embeddings and by random directions; and by how much
    margins that differ from pair to pair are closer to the true gaps than one margin for all."""
    if not scope.any():
        return None
    prompts = _prompts(rows, scope)
    longer = margins.length_difference[scope].astype(float)
    shorter_is_safer = _share(-longer, prompts)
    sign = "shorter" if shorter_is_safer["mean"] >= 0.5 else "longer"
    nothing = np.zeros(len(prompts))
    by_random = np.stack([ordered_right(column, nothing) for column in margins.random[scope].T], axis=1)
    shares = by_random.mean(axis=0)
    binned = binning(margins.raw[scope])
    known = {kind: scope & ~np.isnan(gap) for kind, gap in gaps.items()}
    return {
        "pairs": int(scope.sum()),
        "length_correlation_ci95": _correlation(margins.raw[scope], longer, prompts),
        "length": {"safer": sign, **(shorter_is_safer if sign == "shorter" else _share(longer, prompts))},
        "token_embeddings": _share(token_embeddings[scope], prompts),
        "random": {
            **prompt_interval(by_random.mean(axis=1), prompts, np.random.default_rng(0), (0.0, 1.0)).summary,
            "directions": by_random.shape[1],
            "range": [float(shares.min()), float(shares.max())],
        },
        "margins": {"mean": float(binned.mean()), "std": float(binned.std())},
        "explained": {
            kind: _explained(margins.raw[used], gaps[kind][used], _prompts(rows, used), lines[kind])
            for kind, used in known.items()
        },
    }


def _share(scores: np.ndarray, prompts: np.ndarray) -> dict:
    """The share of pairs whose score is above 0, where 0 counts half."""
    right = ordered_right(scores, np.zeros_like(scores))
    return rate_interval(right, prompts, np.random.default_rng(0)).summary


def gap_lines(rows: Sequence[dict], raw: np.ndarray, scope: np.ndarray) -> dict[str, Line | None]:
    """Of each kind of gap, the line of it on the margins of these pairs; None where it isn't known or doesn't vary."""
    lines: dict[str, Line | None] = {}
    for kind in GAPS:
        gaps = _gaps(rows, kind)
        known = scope & ~np.isnan(gaps)
        varies = known.sum() > 2 and np.ptp(raw[known]) > 0
        lines[kind] = Line(*np.polyfit(raw[known], gaps[known], 1), gaps[known].mean()) if varies else None
    return lines


def _explained(raw: np.ndarray, gaps: np.ndarray, prompts: np.ndarray, line: Line | None) -> dict | None:
    """How much closer to the true gaps margins are than one margin for all: 1 - their squared error / the constant's.

    At 0 and below a constant does as well. Line and constant are the training pairs'.
    """
    if line is None or not len(raw):
        return None
    of_margins, of_constant = (gaps - line.slope * raw - line.intercept) ** 2, (gaps - line.mean) ** 2

    def share(drawn: np.ndarray) -> dict[str, float | None]:
        constant = of_constant[drawn].sum()
        return {"share": float(1 - of_margins[drawn].sum() / constant) if constant else None}

    found = bootstrap(share, prompts, np.random.default_rng(0), 1000 if len(raw) < MANY else 100)["share"]
    return None if found is None else {"pairs": len(raw), **found.summary}
