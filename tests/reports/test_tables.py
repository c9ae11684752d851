"""A figure and its interval as every table writes them."""

from math import atanh, sqrt

import pytest
from rich.table import Table

from alignment.maths.statistics import Interval
from alignment.reports.tables import as_text, counted, few, interval, number, over_seeds, percent, with_interval


@pytest.mark.parametrize(("value", "form", "written"), [
    (0.125, ".2f", "0.12"), (-0.004, ".2f", "-0.00"), (-0.004, "z.2f", "0.00"), (0.004, "+z.2f", "0.00"),
    (0.004, "+.2f", "+0.00"), (-0.006, "+z.2f", "-0.01"), (0.006, "+z.2f", "+0.01"), (0.0, "+.1f", "+0.0"),
])  # fmt: skip
def test_a_zero_has_no_sign_where_the_form_has_a_z(value, form, written):
    assert number(value, form) == written


def test_a_figure_and_its_interval():
    assert with_interval(0.5, [0.25, 0.75], ".2f") == "0.50  [0.25, 0.75]"
    assert with_interval(0.5, [-0.25, 0.75], "+.1f", ".2f", scale=10, apart=" ") == "+5.0 [-2.50, 7.50]"
    assert with_interval(0.5, [None, None], ".2f") == "0.50"
    assert interval((0.0, 1.0), ".3f") == "[0.000, 1.000]"
    assert percent({"mean": 0.123, "ci95": [0.1, 0.2]}) == "12.3  [10.0, 20.0]"
    assert percent({"mean": 0.123, "ci95": [0.1, 0.2]}, signed=True) == "+12.3  [10.0, 20.0]"


def test_figures_over_seeds_have_students_interval():
    """Differences of 0.1, 0.2 and 0.3: t of two degrees of freedom is 4.3027, the standard deviation 0.1, and the
    slope of the inverse hyperbolic tangent 1 / (1 - 0.04)."""
    found = over_seeds([0.1, 0.2, 0.3], 10, difference=True)
    assert (found["mean"], found["n"], found["per_seed"]) == (pytest.approx(0.2), 10, [0.1, 0.2, 0.3])
    half = 0.4302653 / sqrt(3) / 0.96
    assert [atanh(end) for end in found["ci95"]] == pytest.approx([atanh(0.2) - half, atanh(0.2) + half], abs=1e-6)
    rates = over_seeds([0.1, 0.2, 0.3], 10)["ci95"]
    assert found["ci95"][0] < 0 < rates[0], "rates have the logit's"
    assert over_seeds([0.5], 10) == {"mean": 0.5, "ci95": [None, None], "n": 10, "per_seed": [0.5]}
    assert over_seeds([0.5], 10, Interval(0.5, 0.25, 0.75))["ci95"] == [0.25, 0.75], "one seed has that of its pairs"


def test_few_are_marked():
    assert [counted(n) for n in (None, 29, 30, 1200)] == ["", "29*", "30", "1,200"]
    assert few(None, 30, 1200) is None and "fewer than 30" in few(30, 29)


def test_columns_of_figures_are_on_the_right():
    table = Table("what", "figure")
    table.add_row("a", "1.0")
    table.add_row("b", "100.0")
    assert "  a         1.0  \n  b       100.0  " in as_text([table])
