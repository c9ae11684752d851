"""What a user's own data, model and settings must have, looked at before a model is loaded: TRL's words come late."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence, Sized
from dataclasses import MISSING, fields
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainingArguments

from alignment.types import UserError

ANSWERS = ("chosen", "rejected")


# ---- settings -------------------------------------------------------------------------------------------------------


def is_default(arguments: TrainingArguments, name: str) -> bool:
    """Is this setting as nobody set it?"""
    field = next(one for one in fields(arguments) if one.name == name)
    default = field.default if field.default is not MISSING else field.default_factory()
    return getattr(arguments, name) == default


def refuse_changed(arguments: TrainingArguments, reasons: Mapping[str, str]) -> None:
    """Settings that would have no effect, by name: only their defaults go."""
    for name, why in reasons.items():
        if not is_default(arguments, name):
            no_effect(name, why)


def no_effect(name: str, why: str) -> None:
    raise UserError(name, f"it would have no effect: {why}", "leave it at its default")


def refuse_text_for_numbers(arguments: TrainingArguments) -> None:
    """'0.1', as a command line or YAML's 1e-6 gives it: it fails much later, where nobody knows what it was."""
    for field in fields(arguments):
        kinds, value = str(getattr(field.type, "__name__", field.type)), getattr(arguments, field.name)
        number = re.search(r"\b(int|float)\b", kinds) and not re.search(r"\b(str|dict|list|bool)\b", kinds)
        if number and isinstance(value, str):
            raise UserError(field.name, f"{value!r} is text", "give a number, without quotes")


# ---- data -----------------------------------------------------------------------------------------------------------


def given_pairs(
    kind: type, args: Any, train: Any, evaluated: Any, needed: Sequence[str], model: Any, tokenizer: Any
) -> tuple[Any, Any]:
    """A trainer's data sets as plain rows, looked at; kind: of its configuration; needed: the columns of token ids."""
    if not isinstance(args, kind):
        raise UserError("args", f"{type(args).__name__} is not a {kind.__name__}", f"use {kind.__name__}")
    if not isinstance(train, Sized):
        raise UserError("train_dataset", "its length is not known, and the loss is a mean over pairs", "give a Dataset")
    train, evaluated = plain(train), plain(evaluated)
    for name, data in (("train_dataset", train), ("eval_dataset", evaluated)):
        check_pairs(data, name, needed, args, model, tokenizer)
    return train, evaluated


def plain(data: Any) -> Any:
    """Rows of lists and numbers, whatever format a data set was given."""
    if isinstance(data, dict):
        return {name: plain(one) for name, one in data.items()}
    return data.with_format(None) if isinstance(data, Dataset) else data


def check_pairs(
    data: Any, name: str, needed: Sequence[str], args: TrainingArguments, model: Any, tokenizer: Any
) -> None:
    """Of one data set, or of several by name: answers as text, messages or token ids; a template for messages."""
    if isinstance(data, dict):
        for one in data.values():
            check_pairs(one, name, needed, args, model, tokenizer)
        return
    columns = getattr(data, "column_names", None)
    if data is None or columns is None:
        return
    if not isinstance(data, Sized):
        raise UserError(name, "its length is not known", "give a Dataset")
    if not len(data):
        raise UserError(name, "it has no rows", "give pairs")
    ids = set(needed) & set(columns)
    wanted = needed if ids else ANSWERS
    for column in wanted:
        if column not in columns:
            raise UserError(name, f"it has no column `{column}`, only {', '.join(columns)}", "rename yours")
    if not ids and _check_answers(data.select_columns([one for one in ("prompt", *ANSWERS) if one in columns]), name):
        _require_template(args, model, tokenizer)
    one, other = ("chosen_ids", "rejected_ids") if ids else ANSWERS
    same = sum(row[one] == row[other] for row in data.select_columns([one, other]))
    if same == len(data):
        raise UserError(name, "chosen and rejected are the same in every row", "give two answers to a prompt")
    if same:
        warnings.warn(f"{name}: {same} of {len(data)} pairs have two answers alike, and teach nothing", stacklevel=5)


def check_numbers(data: Any, name: str, column: str, lowest: float, highest: float) -> None:
    """Of one data set, or of several by name; an evaluation set that is only named was checked when it was given."""
    if isinstance(data, dict):
        for one in data.values():
            check_numbers(one, name, column, lowest, highest)
        return
    if data is None or isinstance(data, str):
        return
    if column not in (getattr(data, "column_names", None) or ()):
        raise UserError(name, f"it has no column `{column}`", f"add one, or choose another {column}")
    for row, value in enumerate(data[column]):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not lowest <= value <= highest:
            within = f"numbers from {lowest} to {highest}" if math.isfinite(highest) else "finite numbers"
            raise UserError(name, f"the {column} of row {row} is {value!r}", f"give {within}")


def _check_answers(rows: Any, name: str) -> bool:
    """Are they messages? All of a row's are, or none."""
    kinds: set[str] = set()
    for number, row in enumerate(rows):
        for column, content in row.items():
            kinds.add(_kind(content))
            if "other" in kinds:
                raise UserError(
                    name, f"{column} of row {number} is {content!r:.40}", "give text, or messages with content"
                )
        if len(kinds) > 1:
            raise UserError(name, f"row {number} has text beside messages", "give one or the other")
    return kinds == {"messages"}


def _kind(content: Any) -> str:
    if isinstance(content, str):
        return "text"
    messages = isinstance(content, list) and bool(content)
    return "messages" if messages and all(isinstance(one, dict) and one.get("content") for one in content) else "other"


def _require_template(args: TrainingArguments, model: Any, tokenizer: Any) -> None:
    if getattr(args, "chat_template_path", None) is not None:
        return
    if tokenizer is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        tokenizer = AutoTokenizer.from_pretrained(name, **loading(args))
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            "processing_class", "the tokenizer has no chat template, and the data set holds messages",
            "set tokenizer.chat_template, or give pairs as text",
        )  # fmt: skip


def loading(args: TrainingArguments) -> dict[str, Any]:
    """Of the settings that a model is loaded with, those that say where from."""
    where = ("revision", "cache_dir", "token", "subfolder", "local_files_only", "trust_remote_code", "code_revision")
    given = {name: value for name, value in (args.model_init_kwargs or {}).items() if name in where}
    return {"trust_remote_code": args.trust_remote_code, **given}


def require_room(data: Sized, before: int, max_length: int | None, name: str) -> None:
    """After those pairs were left out that don't fit."""
    if before and not len(data):
        raise UserError(name, f"all {before} pairs are longer than max_length={max_length} tokens", "give shorter ones")
