"""What is in a set of preference pairs, as a terminal shows it. Texts of the data are shown, never interpreted."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from alignment.data.inspection import SIDES

LONGEST = 300  # characters of a text


def inspection_tables(found: dict) -> list[Table]:
    found = {**found, "parts": {name: found["parts"][name] for name in ("train", "heldout")}}
    return [_counts(found), _columns(found), _lengths(found), _overlap(found["overlap"]), _examples(found["examples"])]


def _counts(found: dict) -> Table:
    parts = found["parts"]
    table = Table(found["data"], *parts, box=SIMPLE_HEAD)
    for key, label in {
        "pairs": "pairs",
        "prompts": "different prompts",
        "repeated_pairs": "pairs that were there before",
        "pairs_both_ways": "pairs that stand both ways round",
        "answers_safe_and_unsafe": "answers labelled safe and unsafe",
    }.items():
        table.add_row(label, *(f"{one[key]:,}" for one in parts.values()))
    longer = (one["chosen_is_longer"] for one in parts.values())
    table.add_row("chosen is the longer answer", *("-" if one is None else f"{one:.1%}" for one in longer))
    for source in found["sources"] or []:
        table.add_row(Text(f"lines of {source['name']}: read"), f"{source['read']:,}", "")
        for key in ("used", "quarantined"):
            table.add_row(f"  {key}", f"{source[key]:,}", "")
    for reason, count in found["quarantined"].items():
        table.add_row(Text(f"    {reason}"), f"{count:,}", "")
    return table


def _columns(found: dict) -> Table:
    table = Table("column", "kind", *(f"{name}: known" for name in found["parts"]), box=SIMPLE_HEAD)
    for name, kind in found["schema"].items():
        counts = [one["columns"][name] for one in found["parts"].values()]
        if any(counts):
            table.add_row(name, kind, *(f"{count:,}" for count in counts))
    return table


def _lengths(found: dict) -> Table:
    train = found["parts"]["train"]
    table = Table("training pairs", "shortest", "median", "nine in ten up to", "longest", box=SIMPLE_HEAD)
    rows = {f"{side}, {unit}": of[side] for unit, of in train["lengths"].items() for side in SIDES}
    rows["turns of the prompt"] = train["turns"]
    if found["tokens"] is not None:
        rows |= {f"{side}, tokens of {found['tokens']['pairs']:,} pairs": found["tokens"][side] for side in SIDES}
    for name, one in rows.items():
        if one is not None:
            table.add_row(name, *(f"{one[key]:,.0f}" for key in ("min", "median", "p90", "max")))
    return table


def _overlap(overlap: dict) -> Table:
    table = Table("evaluation set", "prompts", "pairs that ask one of them", box=SIMPLE_HEAD)
    for name, one in overlap.items():
        table.add_row(name, f"{one['prompts']:,}", f"{one['pairs']:,}")
    if not overlap:
        table.add_row("none at hand", "", "")
    return table


def _examples(rows: list[dict]) -> Table:
    table = Table(f"{len(rows)} training pairs, drawn", box=SIMPLE_HEAD, show_lines=True)
    for row in rows:
        facts = [f"{name}: {row[name]}" for name in ("category", "harmful", "given_margin") if row[name] is not None]
        said = [f"{side}: {plain(' | '.join(message['content'] for message in row[side]))}" for side in SIDES]
        table.add_row(Text("\n".join([", ".join([row["id"], *facts]), *said])))
    return table


def plain(text: str) -> str:
    """One line without control characters: a terminal obeys some of them."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
