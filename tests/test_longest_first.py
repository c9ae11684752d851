"""Every worker of the slow tests begins with a long one."""

from tests.conftest import REPOSITORY
from tests.longest_first import LONGEST, dealt, in_order


def test_the_longest_come_first_and_each_worker_gets_every_nth():
    tests = ["tests/a.py::test_it", *(f"tests/{name}" for name in reversed(LONGEST[:3])), "tests/b.py::test_it"]
    assert in_order(tests) == [3, 2, 1, 0, 4]
    assert in_order([f"tests/{LONGEST[1]}[zero3]", f"tests/{LONGEST[0]}"]) == [1, 0]
    assert dealt([3, 2, 1, 0, 4], 2) == [2, 0, 3, 1, 4], "xdist gives the first worker two of five"
    assert dealt([3, 2, 1, 0, 4], 1) == [3, 2, 1, 0, 4]


def test_they_are_there():
    for name in LONGEST:
        file, _, test = name.partition("::")
        assert "@pytest.mark.slow" in (text := (REPOSITORY / "tests" / file).read_text()) and f"def {test}(" in text
