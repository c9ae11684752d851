"""Which values a key may have: the schema has them beside the key's type, and they are checked here."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from alignment.types import UserError


def one_of(choices: Any) -> Field:
    """choices: a Literal, or a table whose keys are the choices."""
    return field(metadata={"choices": get_args(choices) or tuple(choices)})


def between(low: float, high: float | None) -> Field:
    """A range that includes both ends; None is no end."""
    return field(metadata={"range": (low, high)})


def at_least(low: float) -> Field:
    return between(low, None)


def check_values(settings: DictConfig, prefix: str = "") -> None:
    """Refuses a value that the schema doesn't allow. Whether null is allowed, the key's type decides."""
    for key in fields(OmegaConf.get_type(settings)):
        name, value = f"{prefix}{key.name}", settings[key.name]
        if isinstance(value, DictConfig) and is_dataclass(OmegaConf.get_type(value)):
            check_values(value, f"{name}.")
        elif value is not None and key.metadata:
            _check_value(name, value, key.metadata)


def _check_value(name: str, value: Any, allowed: Mapping[str, Any]) -> None:
    if "choices" in allowed and value not in allowed["choices"]:
        raise UserError(name, f"{value!r} is not a choice", f"choose one of {', '.join(allowed['choices'])}")
    if "range" in allowed:
        check_range(name, value, *allowed["range"])


def check_range(name: str, value: float, low: float, high: float | None) -> None:
    if not (value >= low and (high is None or value <= high)):
        wanted = f"at least {low}" if high is None else f"between {low:g} and {high:.4g}"
        raise UserError(name, f"{value} is out of range", f"give a number {wanted}")


def check_list(name: str, values: Sequence) -> None:
    if not values or len(set(values)) < len(values):
        raise UserError(name, "the list is empty or names something twice", "name each once")
