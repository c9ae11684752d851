"""The seeded faults can still be made: a line that moved is noticed here, not months later in an empty column."""

import pytest

from tests.conftest import REPOSITORY
from tests.seeded_faults import README, Fault, Outcome, Touching, faults, table

SOURCE = "one = 1\ntwo = [\n    one + 1,\n    one,\n]\n"


def _fault(text: str, replacement: str = "") -> Fault:
    return Fault("name", "what is wrong", "maths/losses.py", text, replacement)


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_every_fault_can_be_made(fault):
    source = (REPOSITORY / fault.path).read_text()
    assert fault.made_in(source) != source
    for test in fault.also:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (REPOSITORY / file).read_text()


def test_there_are_sixty_and_the_table_is_up_to_date():
    assert len(faults()) == 60
    assert README.read_text().endswith("\n" + table()), "python -m tests.seeded_faults table"


def test_a_fault_knows_its_lines_and_refuses_what_is_not_there_once():
    assert list(_fault("one + 1").lines(SOURCE)) == [3]
    assert list(_fault("    one + 1,\n    one,\n").lines(SOURCE)) == [3, 4]
    assert _fault("one + 1", "one - 1").made_in(SOURCE) == SOURCE.replace("+", "-")
    for text, count in (("one", 3), ("three", 0)):
        with pytest.raises(ValueError, match=f"name: its text is {count} times in alignment/maths/losses.py"):
            _fault(text).made_in(SOURCE)
    with pytest.raises(SyntaxError):
        _fault("one + 1", "one +").made_in(SOURCE)


def test_tests_run_nearest_first_then_the_fastest():
    far, near, own, slow = "tests/a.py::x", "tests/maths/b.py::x", "tests/c/test_losses.py::x", "tests/maths/b.py::y"
    touching = Touching({"alignment/maths/losses.py": {1: set(), 2: {far}, 3: {far, slow, near, own}}}, {slow: 2.0})
    assert touching.tests(_fault("one + 1"), SOURCE) == [own, near, slow, far]
    assert touching.tests(_fault("two"), SOURCE) == [far]
    assert touching.tests(_fault("one = 1"), SOURCE) == [own, near, slow, far], (
        "runs on import: all that touch the file"
    )


def test_what_pytest_says_is_understood():
    failed = "tests/a.py::x[1 2] FAILED [ 50%]\nFAILED tests/a.py::x[1 2] - assert 1 == 2\n=== 1 failed in 0.50s ===\n"
    assert Outcome.of(failed, 1, False) == Outcome("failed", "tests/a.py::x[1 2]", 0.5)
    assert Outcome.of("=== 3 passed in 62.01s (0:01:02) ===\n", 0, False) == Outcome("passed", "", 62.01)
    late = "tests/a.py::x PASSED [ 50%]\ntests/a.py::y[1 2] "
    assert Outcome.of(late, -9, True).test == "tests/a.py::y[1 2]"
    with pytest.raises(RuntimeError, match="not found"):
        Outcome.of("ERROR: not found: tests/a.py::z\n", 4, False)
