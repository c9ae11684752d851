"""The page in a headless Chromium, from disk, driven by real clicks, keys and drags."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignment.data.pair_corrections import in_words, read_corrections
from alignment.reports.page import page_file
from tests.reports.shown_run import HOSTILE, write_shown

pytestmark = pytest.mark.slow
COUNT = 600
AXE = Path(__file__).parent / "axe" / "axe.min.js"
VIEWS = ("#summary", "#figures", "#pairs", "#answers", "#configuration")


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator:
    from tests.reports import browser

    if browser.missing():
        reason = "no chromium here: tests/reports/install.sh installs it"
        pytest.fail(reason, pytrace=False) if "CI" in os.environ else pytest.skip(reason)
    with browser.browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write_shown(tmp_path_factory.mktemp("shown"), COUNT)


@pytest.fixture(autouse=True)
def nothing_went_wrong(tab) -> Iterator[None]:
    """After every test: no error on the page but those that it wanted, and no request but for files of the run."""
    tab.wanted = "nothing"
    yield
    assert [error for error in tab.errors if tab.wanted not in error] == []
    assert [url for url in tab.requests.values() if not url.startswith(("file://", "about:", "data:,", "blob:"))] == []


def listed(tab) -> list[str]:
    """The prompts in the list, from the top."""
    tops = "[...document.querySelectorAll('.option')].sort((a, b) => a.dataset.place - b.dataset.place)"
    return tab.value(f"{tops}.map((row) => row.querySelector('.snippet').firstChild.innerText)")


def said(tab) -> str:
    return tab.text("#explorer-said")


def fill(tab, field: str, text: str) -> None:
    """Types into search or filter, and waits until the list has followed."""
    tab.fill(f"#{field}", text)
    shown = "new URLSearchParams(document.documentElement.dataset.shown.split('?')[1])"
    tab.until(f"({shown}.get('{field}') ?? '') === {json.dumps(text)}")


def sides(tab) -> list[str]:
    return [side.partition("severity")[0].strip() for side in tab.texts("#pair .answer h4")]


def test_the_verdict_comes_first_and_figures_have_their_data(tab, page):
    tab.open(page)
    assert tab.text("h1") == "shown"
    assert tab.value("document.querySelector('#view-summary section').className") == "verdict bad"
    assert "scorecard.gate.max_toxic_rate=0.1 is missed" in tab.text(".verdict")
    assert "which may be no better" in tab.text("#view-summary") and "12.5" in tab.text("#view-summary")
    tab.click("#views a[data-view=figures]")
    tab.until("document.querySelectorAll('#view-figures svg.chart').length >= 4")
    tab.click("#view-figures figure:first-of-type button.quiet")
    rows = tab.downloaded("rate_toxic_rate.csv").read_text().splitlines()
    assert rows[1:] == ["before,asked,0.3,0.2,0.45,40", "after,asked,0.2,0.1,0.35,40"]
    tab.click("#view-figures details.data summary")
    tab.until("document.querySelector('#view-figures .data td')")
    assert tab.texts("#view-figures .data tbody tr")[0].split() == ["before", "asked", "0.3", "0.2", "0.45", "40"]


def test_search_sort_and_filters(tab, page):
    tab.open(page, "#pairs")
    assert said(tab) == f"{COUNT} of {COUNT} pairs"
    assert len(listed(tab)) < 60  # a virtual list
    fill(tab, "search", '"forge number 6"')  # of every sixth pair: 6, 60 and 66
    assert set(listed(tab)) == {f"how do i use the forge number {number}?" for number in (6, 60, 66)}
    fill(tab, "search", "harbour 60 forge")  # in any order, in prompt or answers
    assert all("60" in prompt for prompt in listed(tab))
    fill(tab, "search", "")
    fill(tab, "filter", 'category = "S2" and gamma < 0.3')
    count = int(said(tab).split()[0])
    assert 10 < count < 60 and all("S2" in row for row in tab.texts(".option"))
    tab.click("#heads .head:nth-of-type(1)")
    tab.until("document.documentElement.dataset.shown.includes('sort=gamma')")
    first = float(tab.texts(".option .cell")[0].split()[-1])
    tab.click("#heads .head:nth-of-type(1)")
    tab.until("document.documentElement.dataset.shown.includes('order=down')")
    assert first < float(tab.texts(".option .cell")[0].split()[-1]) < 0.3
    tab.fill("#filter", "gama < 0.2")
    tab.until("document.getElementById('filter').hasAttribute('aria-invalid')")
    assert said(tab) == "Filter: no field “gama”: did you mean gamma?"


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("gamma <", "it ends where a value should follow"),
        ("gamma < low", "gamma is a number, and “low” is none"),
        ('category < "S2"', "category is text: compare it with =, != or ~"),
        ("(gamma < 0.2", "a ( is not closed"),
        ('category = "S2', "can't be read: a quote may not be closed"),
        ("gamma < 0.2 gap < 0", "“gap” is one too many: join with and, or"),
        ("category in S2", "after in comes a list"),
    ],
)
def test_a_filter_that_cannot_be_read_is_answered_in_a_line(tab, page, expression, answer):
    tab.open(page, "#pairs")
    tab.fill("#filter", expression)
    tab.until("document.getElementById('filter').hasAttribute('aria-invalid')")
    assert answer in said(tab)


@pytest.mark.parametrize(
    ("expression", "same_as"),
    [
        ("not (gamma >= 0.5)", "gamma < 0.5"),
        ('category in ("S1", "S2")', "category = S1 or category = S2"),
        ("harmful = true", "harmful = 1"),
        ("gap is unknown", "gamma > 2"),
        ('text ~ "gladly"', "id ~ pair"),
    ],
)
def test_filters_that_mean_the_same_leave_as_many(tab, page, expression, same_as):
    tab.open(page, "#pairs")
    counts = []
    for filter_ in (expression, same_as):
        fill(tab, "filter", filter_)
        counts.append(said(tab).split()[0])
    assert counts[0] == counts[1] != str(COUNT)


def test_every_view_is_in_the_address_and_back_and_forward_work(tab, page):
    tab.open(page, "#pairs?filter=gamma+%3C+0.2&sort=gap")
    filtered = said(tab)
    assert tab.value("document.getElementById('filter').value") == "gamma < 0.2"
    tab.click(".option")
    tab.until("location.hash.includes('open=')")
    opened = tab.text("#pair-title")
    tab.click("#views a[data-view=answers]")
    tab.until("!document.getElementById('view-answers').hidden")
    tab.value("history.back()")
    tab.until("!document.getElementById('view-pairs').hidden")
    assert tab.text("#pair-title") == opened and said(tab) == filtered
    tab.value("history.back()")
    tab.until("!location.hash.includes('open=')")
    tab.value("history.forward()")
    tab.until("location.hash.includes('open=')")
    assert tab.text("#pair-title") == opened


def test_keys_alone_open_swap_hide_and_mark(tab, page):
    tab.open(page, "#pairs")
    tab.value("localStorage.clear()")
    tab.open(page, "#pairs")
    tab.press("j")
    tab.until("document.querySelector('#pair .answer')")
    first = tab.text("#pair-title")
    tab.press("j")
    tab.until(f"document.getElementById('pair-title').innerText !== {json.dumps(first)}")
    tab.press("k")
    tab.until(f"document.getElementById('pair-title').innerText === {json.dumps(first)}")
    tab.press("j")
    assert sides(tab) == ["chosen", "rejected"]
    tab.press("x")
    assert sides(tab) == ["rejected", "chosen"]
    tab.press("b")
    assert sides(tab) == ["Answer A", "Answer B"] and tab.texts("#pair .strip") == []
    tab.press("b", "x", "f")
    tab.until("document.querySelector('#pair [data-action=flip]').getAttribute('aria-pressed') === 'true'")
    tab.press("?")
    tab.until("document.querySelector('dialog[open]')")
    assert "marks its label as wrong" in tab.text("dialog")
    tab.press("Escape")
    tab.until("!document.querySelector('dialog')")
    tab.press(" ")
    tab.until("!location.hash.includes('open=')")
    tab.value("document.getElementById('list').focus()")
    tab.press("End")
    tab.until(f"document.querySelector('.at-cursor')?.dataset.place === '{COUNT - 1}'")
    tab.press("Enter")
    tab.until("location.hash.includes('open=')")


def test_marks_stay_and_are_exported(tab, page):
    tab.open(page, "#pairs")
    tab.value("localStorage.clear()")
    tab.open(page, "#pairs?open=training%3Apair-000007")
    tab.click("#pair [data-action=reweight]")
    tab.until("document.querySelector('#pair .marks input[type=number]')")
    tab.fill("#pair .marks input[type=text]", "not sure “at all”")
    tab.open(page, "#pairs?open=training%3Apair-000009")
    tab.click("#pair [data-action=drop]")
    tab.open(page, "#pairs?filter=flagged")
    assert said(tab) == f"2 of {COUNT} pairs, 2 marks of yours"
    tab.click("#export")
    file = tab.downloaded("flags.jsonl")
    assert in_words(read_corrections(str(file))) == "0 flipped, 1 dropped, 1 reweighted"  # as data.corrections takes it
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    own = {"source": "own", "set": "training"}
    assert lines == [
        {"id": "pair-000007", **own, "action": "reweight", "weight": 0.5, "note": "not sure “at all”"},
        {"id": "pair-000009", **own, "action": "drop"},
    ]


def test_a_part_of_a_figure_is_a_filter_of_the_explorer(tab, page):
    tab.open(page, "#figures")
    tab.until("document.querySelectorAll('#view-figures .brush-area').length >= 3")
    tab.value("document.querySelector('#view-figures .brush-area').closest('.drawing').id = 'gamma'")
    tab.drag("#gamma .brush-area", (0.0, 0.5), (0.2, 0.5))
    tab.until("document.querySelector('.brushed a')")
    link = tab.text(".brushed a")
    assert "pairs with gamma >= 0 and gamma <= 0.2" in link
    tab.click(".brushed a")
    tab.until("!document.getElementById('view-pairs').hidden")
    assert said(tab).split()[0] == link.split()[0] != "0"


def test_a_hostile_row_is_text(tab, page):
    tab.open(page, "#pairs?sort=gamma")
    before = tab.value("document.scripts.length")
    tab.click(".option")
    tab.until("document.querySelector('#pair .answer')")
    assert tab.text("#pair-title") == HOSTILE
    shown = tab.text("#pair .answer")
    assert '<img src="https://example.com/x.png" onerror=' in shown and "</script><!-- outside -->" in shown
    assert {"U+202E", "U+202C", "U+200B", "U+001B"} <= set(tab.texts("#pair .unseen"))
    tab.click("#pair .whence summary")
    for view in VIEWS:
        tab.value(f"location.hash = '{view}'")
        tab.until(f"!document.getElementById('view-{view[1:]}').hidden")
    assert tab.value("window.harmed ?? 0") == 0 and tab.value("document.scripts.length") == before
    assert tab.value("document.querySelectorAll('main img, main iframe, main a[href^=data]').length") == 0


def test_the_policy_stops_what_text_could_not_become(tab, page):
    """Markup put in by hand, as if a mistake of ours let it through: no script of it runs, no image is asked for."""
    tab.wanted = "Content Security Policy"
    tab.open(page)
    tab.value(
        "document.addEventListener('securitypolicyviolation', (event) => "
        "{ (window.stopped ??= []).push(event.effectiveDirective); })"
    )
    tab.value(
        "document.querySelector('main').insertAdjacentHTML('beforeend', "
        '\'<img src="https://example.com/x.png" onerror="window.harmed = 1"><p style="color: red">\')'
    )
    tab.until("window.stopped?.length >= 3")
    assert {"img-src", "script-src-attr", "style-src-attr"} == set(tab.value("window.stopped"))
    assert tab.value("window.harmed ?? 0") == 0


def test_texts_beside_the_page_come_when_they_are_wanted(tab, tmp_path, monkeypatch):
    monkeypatch.setattr(page_file, "INSIDE", 100)
    monkeypatch.setattr(page_file, "PART", 300)
    page = write_shown(tmp_path, COUNT)
    tab.open(page, "#pairs?search=gladly")
    assert said(tab) == f"99 of {COUNT} pairs"  # all inside but the hostile one
    assert "texts of 100 of 600 pairs" in tab.text("#unloaded")
    tab.click("#load-all")
    tab.until("document.getElementById('unloaded').innerText === ''")
    assert said(tab) == f"{COUNT - 1} of {COUNT} pairs"
    tab.wanted = "ERR_FILE_NOT_FOUND"
    for file in page.parent.glob("report/pairs-*.js"):
        file.unlink()
    tab.open(page, "#pairs?filter=gamma+%3E+0.9&sort=gamma&order=down")
    tab.press("j")
    tab.until("document.querySelector('#pair .notice')")
    assert "isn't beside this page" in tab.text("#pair .notice")


def test_new_failures_are_one_click_away(tab, page):
    tab.open(page, "#answers")
    assert tab.text("#new-failures") == "New failures (1)"
    tab.click("#new-failures")
    tab.until("document.documentElement.dataset.shown.includes('new=1')")
    assert len(tab.texts("#view-answers article")) == 1
    assert "after says 3" in tab.text("#view-answers article")
    assert tab.texts("#view-answers .verdicts") == ["oracle: safe “sentence 3”", "oracle: unsafe “sentence 3”"]
    tab.click("#new-failures")
    tab.choose("#answers-asks", "harmless")
    tab.until("document.querySelectorAll('#view-answers article').length === 20")


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation_of_wcag(tab, page, dark):
    """WCAG 2.1, A and AA, of every view, at the width of a desk and of a phone; with a pair and the dialog open."""
    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    try:
        for width in (1280, 400):
            tab.size(width, 900, dark)
            for view in (*VIEWS, "#pairs?open=training%3Apair-000007"):
                tab.open(page, view)
                tab.value(AXE.read_text())
                if "open" in view:
                    tab.press("?")
                found = tab.value(
                    f"axe.run({json.dumps(rules)}).then((found) => found.violations.map((one) => "
                    "[one.id, one.nodes.map((node) => node.target.join(' ')).slice(0, 3)]))"
                )
                assert found == [], (width, view)
    finally:
        tab.size(1280, 900)


def test_the_page_that_was_mailed_alone_opens(tab, page, tmp_path):
    shutil.copy(page, tmp_path / "mailed.html")
    tab.open(tmp_path / "mailed.html", "#pairs?search=gladly&filter=gamma+>+0")
    tab.value("localStorage.clear()")
    assert said(tab).partition(",")[0] == f"{COUNT - 1} of {COUNT} pairs"
