"""A scorecard as tables: for a terminal, and in Markdown for a model card."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from alignment.data.rewardbench import SECTIONS
from alignment.evaluation.vocabulary import METRICS
from alignment.reports.answer_samples import samples_markdown
from alignment.reports.broken_policies import broken_markdown
from alignment.reports.corrected import CORRECTED, figure, is_shown, judged, notes
from alignment.reports.markdown import escaped, markdown_table
from alignment.reports.tables import FEW_MARK, counted, percent, share, with_interval

INTERVALS = (
    "Intervals are 95%: Wilson's of rates with one answer a prompt; of those with several and of differences, a "
    "bootstrap over prompts; of means, Student's t over prompts"
)
UNJUDGED = (
    "no judge of harm read these answers: nothing here says how safe they are; judge=[refusal,llama_guard_3] adds one"
)
SMALL_P = 0.001
SHOWN = 10  # answers that a category must have to be in a table
UNPARSED = f"{METRICS['unparsed'].says}, %"  # left out of a terminal's table where every verdict could be read
GATE_HEADS = ("gate, %", "set", "judge", "limit", "measured", "")


def card_tables(card: dict) -> list[Table]:
    """A table for every system that is compared with the first, of whole sets; sections and gates have tables too."""
    before, *later = (system["name"] for system in card["systems"])
    tables = [_table(card, before, after) for after in later or [None]]
    tables[-1].caption = _captioned(tables[-1].caption, notes(judged(_whole(card)), card["judges"]))
    if card["sections"]:
        heads, *rows = _section_cells(card["sections"])
        tables.append(Table(*heads))
        for name, *cells in rows:
            tables[-1].add_row(Text(name), *cells)
    if card["gates"]:
        tables.append(Table(*GATE_HEADS))
        for gate in card["gates"]:
            *names, limit, value = _gate_cells(gate)
            tables[-1].add_row(*map(Text, names), limit, value, "held" if gate["passed"] else "MISSED")
    return tables


def _table(card: dict, before: str, after: str | None) -> Table:
    """Names of sets and judges are Text: they may be files, and no markup."""
    groups = _rows(card, before, after)
    few = [FEW_MARK] if any("*" in cells[3] for rows in groups.values() for cells in rows) else []
    caption = "; ".join([*few, *_unjudged(card), *_validity(card)])
    table = Table("scorecard", "n", *_compared(before, after), caption=Text(caption) if caption else None)
    for title, rows in groups.items():
        if title == UNPARSED and all(cell.startswith("0.0 ") for row in rows for cell in row[4:6]):
            continue
        table.add_row(Text(title))
        for says, name, judge, *cells in rows:
            whole = Text(f"  {name}" + (f" by {judge}" if judge else ""))
            table.add_row(whole if says == title else f"    {CORRECTED}", *cells)
    return table


def _captioned(caption: Text | None, lines: Sequence[str]) -> Text | None:
    """A caption with more lines below it."""
    all_lines = [*([caption.plain] if caption else []), *lines]
    return Text("\n".join(all_lines)) if all_lines else None


def _whole(card: dict) -> list[dict]:
    """The numbers of whole sets, which are corrected where they can be."""
    return [number for number in card["numbers"] if number["category"] is None]


def _unjudged(card: dict) -> list[str]:
    """Says so, where answers were judged, and by no judge of harm."""
    judged = {number["metric"] for number in card["numbers"] if number["judge"]}
    return [UNJUDGED] if judged and "toxic_rate" not in judged else []


def _validity(card: dict) -> list[str]:
    """What usefulness was held against, where there is some."""
    return [f"usefulness: {how['validated']}" for name, how in card["decoding"].items() if name == "usefulness"]


def _compared(before: str, after: str | None) -> list[str]:
    return [before] if after is None else [before, after, "difference", "p"]


def _rows(card: dict, before: str, after: str | None, categories: bool = False) -> dict[str, list[list[str]]]:
    """By metric the rows of a table as they are written: metric, set, judge, n, and a cell for each of `_compared`."""
    rows: dict[str, list[list[str]]] = {}
    for key, by_system in (_shown_categories(card)[0] if categories else _numbers(card)).items():
        metric, name, judge, category = key
        numbers = [by_system.get(system) for system in (before, after)]
        if not any(numbers):
            numbers = [next(iter(by_system.values())), None]  # a reward model, of which there is one
        rate, says = METRICS[metric].rate, METRICS[metric].says
        change = difference(card, key, after)
        if METRICS[metric].alone:
            says, category = f"{says} {category}", None
        title = f"{says}{', %' if rate else ''}"
        n = next(number for number in (change, *numbers) if number)["n"]
        cells = [
            title,
            name if category is None else f"{name}: {category}",
            judge or "",
            counted(n),
        ]
        cells += [_figure(number, rate) for number in (numbers if after else numbers[:1])]
        if after is not None:
            cells += ["", ""] if change is None else [_figure(change, rate, signed=True), _p(change)]
        rows.setdefault(title, []).append(cells)
        corrected = [number and number.get("corrected") for number in (numbers if after else numbers[:1])]
        if is_shown(corrected):
            changes = [figure(change and change.get("corrected"), signed=True), ""] if after else []
            row = [f"{title}, corrected", name, judge or "", "", *map(figure, corrected), *changes]
            rows[title].append(row)
    return rows


def _numbers(card: dict, categories: bool = False) -> dict[tuple, dict[str, dict]]:
    """The numbers by (metric, set, judge, category) and then by system: those of whole sets, or those of categories."""
    numbers: dict[tuple, dict[str, dict]] = {}
    for number in card["numbers"]:
        partial = number["category"] is not None and not METRICS[number["metric"]].alone
        if partial == categories:
            numbers.setdefault(_key(number), {})[number["system"]] = number
    return numbers


def _shown_categories(card: dict) -> tuple[dict[tuple, dict[str, dict]], str | None]:
    """The numbers of categories that have SHOWN answers or more; and what that leaves out, in words."""
    shown: dict[tuple, dict[str, dict]] = {}
    hidden: dict[tuple, int] = {}  # set and category: answers, which several judges and metrics are of
    for key, by_system in _numbers(card, categories=True).items():
        n = max(number["n"] for number in by_system.values())
        if n >= SHOWN:
            shown[key] = by_system
        else:
            hidden[key[1], key[3]] = max(n, hidden.get((key[1], key[3]), 0))
    if not hidden:
        return shown, None
    categories = "category" if len(hidden) == 1 else "categories"
    return shown, f"Not shown: {len(hidden)} {categories} of fewer than {SHOWN} answers, {sum(hidden.values())} in all."


def _key(number: dict) -> tuple:
    return number["metric"], number["set"], number["judge"], number["category"]


def difference(card: dict, key: tuple, after: str | None) -> dict | None:
    """How a number (metric, set, judge, category) of a system differs from that of the first."""
    changes = card["differences"]
    return next((change for change in changes if _key(change) == key and change["system"] == after), None)


def _figure(number: dict | None, rate: bool, signed: bool = False) -> str:
    if number is None:
        return ""
    form = ("+" if signed else "") + ("z.1f" if rate else "z.2f")
    return with_interval(number["value"], number["interval"], form, scale=100 if rate else 1, apart=" ")


def _p(difference: dict) -> str:
    p = difference.get("mcnemar_p")
    if p is None:
        return ""
    return f"<{SMALL_P:g}" if p < SMALL_P else f"{p:.3f}"


def _section_cells(sections: list[dict]) -> list[list[str]]:
    """Heads and rows. The score is that of all four sections, or there is none."""
    rows = [
        [entry["set"], *(share(entry["sections"].get(name)) for name in SECTIONS), share(entry["score"])]
        for entry in sections
    ]
    return [["pairs ranked right, %", *SECTIONS, "score"], *rows]


def _gate_cells(gate: dict) -> list[str]:
    names = [gate[key] or "" for key in ("gate", "set", "judge")]
    measured = "not measured" if gate["value"] is None else f"{100 * gate['value']:.4g}"
    return [*names, f"{100 * gate['limit']:g}", measured]


# ---- Markdown -------------------------------------------------------------------------------------------------------


def card_markdown(card: dict, samples: Sequence[dict] = ()) -> str:
    """The figures for a model's README, some answers (answer_samples.py), and what they were measured with."""
    before, *later = (system["name"] for system in card["systems"])
    models = "; ".join(f"{system['name']}: {escaped(system['model'])}" for system in card["systems"])
    lines = ["# Scorecard", "", f"{models[0].upper()}{models[1:]}.", ""]
    lines += broken_markdown(card.get("soundness", []))
    lines += [line for one in _unjudged(card) for line in (f"**{one[0].upper()}{one[1:]}.**", "")]
    if card["gates"]:
        rows = [[*_gate_cells(gate), "held" if gate["passed"] else "**missed**"] for gate in card["gates"]]
        lines += [*markdown_table(GATE_HEADS, rows, named=3), ""]
    few = False
    for after in later or [None]:
        heads = ["", "set", "judge", "n", *_compared(before, after)]
        rows = _flat(_rows(card, before, after))
        few |= any("*" in cells[3] for cells in rows)
        lines += [*([""] if lines[-1] else []), *markdown_table(heads, rows, named=3)]
        by_category, left_out = _flat(_rows(card, before, after, categories=True)), _shown_categories(card)[1]
        few |= any("*" in cells[3] for cells in by_category)
        if by_category:
            lines += ["", "By category:", "", *markdown_table(heads, by_category, named=3)]
        lines += ["", left_out] if left_out else []
    if card["sections"]:
        heads, *rows = _section_cells(card["sections"])
        lines += ["", "RewardBench's sections:", "", *markdown_table(heads, rows, named=1)]
    lines += [
        "",
        *samples_markdown(samples),
        "## How it was measured",
        "",
        *([f"- {escaped(FEW_MARK)}."] if few else []),
    ]
    for name, settings in card["decoding"].items():
        own = {"chat_template": "the model's own"} if settings.get("chat_template", "") is None else {}
        lines.append(f"- {name}: {_settings({**settings, **own})}")
    for name, record in card["judges"].items():
        own = {key: value for key, value in record.items() if key not in ("judge", "health")}
        lines.append(f"- judge {name}: {_settings(own)}{_agreement(record.get('health'))}")
    lines += [f"- set {escaped(name)}: {_settings(counts)}" for name, counts in card["sets"].items()]
    lines += [f"- {escaped(line)}." for line in notes(judged(_whole(card)), card["judges"])]
    lines += [
        f"- {INTERVALS}. p: McNemar's exact test.",
        "- A difference pairs the answers of both models to the same prompt, drawn with the same noise.",
        "- Of twenty differences that are none, one has an interval that leaves 0 out: there are many categories.",
    ]
    return "\n".join(lines) + "\n"


def compared_markdown(card: dict, system: str) -> list[str]:
    """A table of one system's figures on whole sets, beside those of the first, and what the intervals are."""
    before = card["systems"][0]["name"]
    after = None if system == before else system
    table = markdown_table(
        ["", "set", "judge", "n", *_compared(before, after)], _flat(_rows(card, before, after)), named=3
    )
    seeds = "; all seeds together" if any(len(one.get("seeds", [])) > 1 for one in card["decoding"].values()) else ""
    few = [f"{FEW_MARK}."] if any("* |" in line for line in table) else []
    lines = [*few, f"{INTERVALS}{seeds}."]
    lines += [f"{line[0].upper()}{line[1:]}." for line in notes(judged(_whole(card)), card["judges"])]
    broken = broken_markdown([row for row in card.get("soundness", []) if row["system"] == system])
    return [*broken, *table, "", *(escaped(line) for line in lines)]


def _flat(groups: dict[str, list[list[str]]]) -> list[list[str]]:
    return [cells for rows in groups.values() for cells in rows]


def _agreement(health: dict | None) -> str:
    """What a judge's verdicts are worth, by labels; scorecard.json has all of it."""
    if not health:
        return ""
    kind = "toxic" if "toxic" in health else "refusal"
    of = f"{counted(health[kind]['rows'])} labelled answers of {health['set']}"
    return escaped(f"; agrees with {percent(health[kind]['agreement'])} percent of {of}")


def _settings(settings: dict) -> str:
    return escaped(", ".join(f"{key} {_plain(value)}" for key, value in settings.items()))


def _plain(value: object) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
