"""docs/judges.md shows what a run printed of its report, whose corrected rate is that of the formula."""

import json

import jsonschema
import pytest

from alignment.judges.corrections import Correction
from alignment.reports.judges import judge_tables
from alignment.reports.tables import as_text
from tests.conftest import REPOSITORY

REPORT = json.loads((REPOSITORY / "docs/reports/judge_smollm2.json").read_text())
(JUDGE,) = REPORT["judge"]["judges"].values()


def test_the_page_has_the_tables_of_its_report():
    page = (REPOSITORY / "docs/judges.md").read_text().splitlines()
    assert [line for line in as_text(judge_tables(REPORT["judge"])).splitlines() if line.rstrip() not in page] == []
    jsonschema.validate(REPORT, json.loads((REPOSITORY / "alignment/reports/report.schema.json").read_text()))


def test_the_corrected_rate_is_that_of_the_formula():
    errors, rate = JUDGE["health"]["refusal"]["errors"], JUDGE["rates"]["refusal"]
    sensitivity, specificity = errors["sensitivity"]["mean"], errors["specificity"]["mean"]
    expected = (rate["value"] + specificity - 1) / (sensitivity + specificity - 1)
    assert rate["corrected"]["value"] == pytest.approx(expected) and Correction(errors).why_not is None
