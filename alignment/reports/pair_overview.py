"""The report of stage inspect: what is in a set of preference pairs. Its texts are shown, and never read as markup."""

from rich.table import Table
from rich.text import Text

from alignment.data.inspection import SIDES

LONGEST = 300  # characters of a text that are shown


def inspection_tables(inspection: dict) -> list[Table]:
    parts = {name: inspection["parts"][name] for name in ("train", "heldout")}
    return [
        _counts(inspection, parts),
        _columns(inspection["schema"], parts),
        _lengths(parts["train"], inspection["tokens"]),
        _overlap(inspection["overlap"]),
        _examples(inspection["examples"]),
    ]


def _counts(inspection: dict, parts: dict[str, dict]) -> Table:
    table = Table(inspection["data"], *parts)
    for key, label in {
        "pairs": "pairs",
        "prompts": "different prompts",
        "repeated_pairs": "pairs that were there before",
        "pairs_both_ways": "pairs that stand both ways round",
        "answers_safe_and_unsafe": "answers labelled safe and unsafe",
    }.items():
        table.add_row(label, *(f"{part[key]:,}" for part in parts.values()))
    shares = (part["chosen_is_longer"] for part in parts.values())
    table.add_row("chosen is the longer answer", *("-" if share is None else f"{share:.1%}" for share in shares))
    for source in inspection["sources"] or []:
        table.add_row(Text(f"lines of {source['name']}: read"), f"{source['read']:,}", "")
        for key in ("used", "quarantined"):
            table.add_row(f"  {key}", f"{source[key]:,}", "")
    for reason, count in inspection["quarantined"].items():
        table.add_row(Text(f"    {reason}"), f"{count:,}", "")
    return table


def _columns(schema: dict[str, str], parts: dict[str, dict]) -> Table:
    table = Table("column", "kind", *(f"{name}: known" for name in parts))
    for name, kind in schema.items():
        counts = [part["columns"][name] for part in parts.values()]
        if any(counts):
            table.add_row(name, kind, *(f"{count:,}" for count in counts))
    return table


def _lengths(train: dict, tokens: dict | None) -> Table:
    table = Table("training pairs", "shortest", "median", "nine in ten up to", "longest")
    rows = {f"{side}, {unit}": by_side[side] for unit, by_side in train["lengths"].items() for side in SIDES}
    rows["turns of the prompt"] = train["turns"]
    if tokens is not None:
        rows |= {f"{side}, tokens of {tokens['pairs']:,} pairs": tokens[side] for side in SIDES}
    for name, lengths in rows.items():
        if lengths is not None:
            table.add_row(name, *(f"{lengths[key]:,.0f}" for key in ("min", "median", "p90", "max")))
    return table


def _overlap(overlap: dict) -> Table:
    table = Table("evaluation set", "prompts", "pairs that ask one of them")
    for name, counts in overlap.items():
        table.add_row(name, f"{counts['prompts']:,}", f"{counts['pairs']:,}")
    if not overlap:
        table.add_row("none at hand", "", "")
    return table


def _examples(rows: list[dict]) -> Table:
    table = Table(f"{len(rows)} training pairs, drawn", show_lines=True)
    for row in rows:
        facts = [f"{name}: {row[name]}" for name in ("category", "harmful", "given_margin") if row[name] is not None]
        texts = [f"{side}: {plain(' | '.join(message['content'] for message in row[side]))}" for side in SIDES]
        table.add_row(Text("\n".join([", ".join([row["id"], *facts]), *texts])))
    return table


def plain(text: str) -> str:
    """The text in one line, without control characters: a terminal obeys some of them."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
