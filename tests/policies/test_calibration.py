"""Which given pairs a live confidence is held against, and that nothing learns from them."""

from alignment.policies.calibration import calibration_pairs, without_prompts_of


def rows(*prompts: str) -> list[dict]:
    return [{"id": f"{i}", "prompt": [{"role": "user", "content": text}]} for i, text in enumerate(prompts)]


def test_the_last_pairs_whose_prompts_the_reward_was_not_fitted_on():
    given = rows("a", "b", "c", "a", "d", "c")
    assert [row["id"] for row in calibration_pairs(given, rows("a"), 3)] == ["2", "4", "5"]
    assert [row["id"] for row in calibration_pairs(given, rows("a"), 10)] == ["1", "2", "4", "5"]
    assert calibration_pairs(given, given, 10) == []


def test_no_policy_learns_from_their_prompts():
    given = rows("a", "b", "c", "a", "d", "c")
    assert [row["id"] for row in without_prompts_of(given, [given[4], given[5]])] == ["0", "1", "3"]
