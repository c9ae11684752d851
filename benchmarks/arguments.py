"""Plain key=value arguments; one line and exit 2 for anything else."""

import sys
from collections.abc import Sequence
from typing import NoReturn


def read(argv: Sequence[str], defaults: dict[str, object]) -> dict:
    """The defaults with what was given: numbers where the default is one; None stands for a number that may be left
    out."""
    found = dict(defaults)
    for argument in argv:
        key, sign, value = argument.partition("=")
        if not sign or key not in defaults:
            stop(f"{argument!r} is not known; give {', '.join(f'{name}=...' for name in defaults)}")
        found[key] = value if isinstance(defaults[key], str) else _number(key, value)
    return found


def stop(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(2)


def _number(key: str, value: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        stop(f"{key}={value}: give a number from 1")
    return int(value)
