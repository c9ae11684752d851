"""Which given pairs a live confidence is held against, and that nothing learns from them."""

from types import SimpleNamespace

import pytest

from alignment.data.columns import Loaded
from alignment.policies import search
from alignment.policies.pairs_apart import calibration_pairs, without_prompts_of
from alignment.runs import artifacts
from alignment.runs.ranks import Ranks
from alignment.settings.compose import compose_config


def rows(*prompts: str) -> list[dict]:
    return [{"id": f"{i}", "prompt": [{"role": "user", "content": text}]} for i, text in enumerate(prompts)]


def test_the_last_pairs_whose_prompts_the_reward_was_not_fitted_on():
    given = rows("a", "b", "c", "a", "d", "c")
    assert [row["id"] for row in calibration_pairs(given, rows("a"), 3)] == ["2", "4", "5"]
    assert [row["id"] for row in calibration_pairs(given, rows("a"), 10)] == ["1", "2", "4", "5"]
    assert calibration_pairs(given, given, 10) == []


@pytest.mark.parametrize(
    ("stage", "confidence", "pairs", "expected"),
    [
        ("train_cdpo", "calibrated", 90, 40),
        ("train_cdpo", "calibrated", 81, 0),
        ("train_cdpo", "calibrated", 400, 128),
        ("train_cdpo", "paper", 90, 0),
        ("train_dpo", "calibrated", 90, 0),
    ],
)
def test_who_is_held_against_how_many(stage, confidence, pairs, expected, monkeypatch, capsys):
    """The reward was fitted on the first 50; 31 others are too few, and the trained policy keeps them."""
    given = rows(*(f"question {i}" for i in range(pairs)))
    monkeypatch.setattr(search, "given_pairs", lambda *_: (Loaded(list(given)), Loaded()))
    monkeypatch.setattr(artifacts, "read_rows", lambda path: given[:50])
    job = SimpleNamespace(
        cfg=compose_config(["+recipe=cdpo", f"confidence={confidence}"]), run=SimpleNamespace(fitted_pairs=None),
        ranks=Ranks(),
    )  # fmt: skip
    assert len(search._calibration_pairs(stage, job)) == expected
    assert len(search._pairs(stage, job, kind="given").rows) == pairs - expected
    few = "31 training pairs have a prompt that the reward wasn't fitted on, too few to see"
    assert (few in capsys.readouterr().out) is (pairs == 81)


def test_no_policy_learns_from_their_prompts():
    given = rows("a", "b", "c", "a", "d", "c")
    assert [row["id"] for row in without_prompts_of(given, [given[4], given[5]])] == ["0", "1", "3"]
