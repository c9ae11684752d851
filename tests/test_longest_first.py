"""Every worker of the slow tests begins with a long one."""

import pytest

from tests.conftest import REPOSITORY
from tests.longest_first import LONGEST, in_order


def test_each_worker_begins_with_every_nth_of_the_longest():
    """Which are here the last of all, in the wrong order, and one of them of two cases."""
    tests = [*(f"tests/a.py::test_{i}" for i in range(5)), *(f"tests/{name}" for name in reversed(LONGEST[1:4]))]
    tests.append(f"tests/{LONGEST[0]}[zero3]")
    assert in_order(tests, 1) == [8, 7, 6, 5, 0, 1, 2, 3, 4]
    assert in_order(tests, 2) == [7, 5, 0, 1, 8, 6, 2, 3, 4], "xdist gives the first worker four of nine"
    assert in_order(tests[:5], 2) == [0, 1, 2, 3, 4], "fast tests stay as they stand"


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_none_is_lost(count, workers):
    tests = [f"tests/{name}" for name in LONGEST[: count // 2]] + ["tests/a.py::test_it"] * (count - count // 2)
    assert sorted(in_order(tests, workers)) == list(range(count))


def test_they_are_there():
    for name in LONGEST:
        file, _, test = name.partition("::")
        assert "@pytest.mark.slow" in (text := (REPOSITORY / "tests" / file).read_text()) and f"def {test}(" in text
