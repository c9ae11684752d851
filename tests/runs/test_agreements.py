"""What a run found out once about its models, which all ranks take alike."""

import pytest

from alignment.runs.agreements import agreements
from alignment.runs.ranks import Ranks


class OneOfTwo(Ranks):
    """A rank beside another, whose findings are given. main_says: what the main process tells."""

    def __init__(self, rank: int, other_found: bool, main_says: object = None) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "given", (other_found, main_says))

    def any(self, here: bool) -> bool:
        return here or self.given[0]

    def from_main(self, decide):
        return decide() if self.main else self.given[1]


def test_what_was_found_is_kept_for_the_run(tmp_path):
    assert agreements.why_not("a", lambda: "no run", Ranks()) == "no run"
    with agreements.in_a_run(tmp_path / "found"):
        for key, why in (("a", None), ("b", "they differ")):
            assert agreements.why_not(key, lambda why=why: why, Ranks()) == why
            assert agreements.why_not(key, lambda: pytest.fail("it was found"), Ranks()) == why
        (tmp_path / "found" / "b.json").write_text("{ half a fi")
        assert agreements.why_not("b", lambda: None, Ranks()) is None
    assert agreements.why_not("b", lambda: "no run", Ranks()) == "no run"
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["a.json", "b.json"]


def test_a_difference_on_any_rank_is_one_on_all(tmp_path):
    assert agreements.why_not("a", lambda: None, OneOfTwo(0, other_found=True)) == "another rank found a difference"
    assert agreements.why_not("a", lambda: "mine", OneOfTwo(0, other_found=False)) == "mine"
    assert agreements.why_not("a", lambda: None, OneOfTwo(0, other_found=False)) is None
    second = OneOfTwo(1, other_found=True, main_says="they differ")
    assert agreements.why_not("a", lambda: None, second) == "they differ"
    with agreements.in_a_run(tmp_path):
        told = OneOfTwo(1, other_found=False, main_says={"why_not": "as it was found"})
        assert agreements.why_not("a", lambda: pytest.fail("the main process knows"), told) == "as it was found"
    assert not list(tmp_path.iterdir()), "the main process writes"
