"""Single values of a row: read as what their column holds, or refused with the reason."""

import re
from math import isfinite, nan

MOST_NAMED = 12  # of a row's columns in a message
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRow(ValueError):
    """A row can't be used; the message says why."""


def no_column(wanted: str, row: dict) -> BadRow:
    """Names the columns that are there: the one that is wanted is often among them, by another name."""
    names = [name if name.isprintable() and len(name) <= 40 else shown(name) for name in map(str, row)]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return BadRow(f"has no column {wanted}, only {', '.join(names[:MOST_NAMED]) or 'an empty row'}{more}")


def check_characters(text: str, column: str) -> None:
    if "\0" in text:
        raise BadRow(f"{column} holds a NUL character")
    if not text.isascii() and _SURROGATE.search(text):
        raise BadRow(f"{column} holds half a character (a lone surrogate)")


def as_name(value: object, column: str) -> str | None:
    if _empty(value):
        return None
    if isinstance(value, list | dict):
        raise BadRow(f"{column} is neither text nor a number")
    try:
        text = str(value)
    except ValueError as error:  # an integer of thousands of digits
        raise BadRow(f"{column} is {error}") from error
    check_characters(text, column)
    return text


def _empty(value: object) -> bool:
    """Is it null, a csv's empty field, or the NaN that pandas writes for null?"""
    return value is None or (value != value or value == "")


def true_or_false(value: object, column: str) -> bool | None:
    if _empty(value):
        return None
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise BadRow(f"{column} is {shown(value)}, neither true nor false")
    return value


def as_level(value: object, column: str) -> int | None:
    if _empty(value):
        return None
    level = as_float(value)
    if level not in (0, 1, 2, 3):
        raise BadRow(f"{column} is {shown(value)}, not 0, 1, 2 or 3")
    return int(level)


def as_share(value: object, column: str) -> float | None:
    if _empty(value):
        return None
    share = as_float(value)
    if not 0 <= share <= 1:
        raise BadRow(f"{column} is {shown(value)}, not a number from 0 to 1")
    return share


def as_number(value: object, column: str) -> float | None:
    """A finite number. NaN is a bad margin here, not a missing one."""
    if value is None or value == "":
        return None
    number = as_float(value)
    if not isfinite(number):
        raise BadRow(f"{column} is {shown(value)}, not a finite number")
    return number


def as_float(value: object) -> float:
    """The value as a number; NaN if it isn't one, as true and false are not."""
    try:
        return nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return nan


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
