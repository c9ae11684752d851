"""What a user's own data and settings must have: checked before a model is loaded, since TRL's errors come later."""

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


def refuse_changed(arguments: TrainingArguments, reasons: Mapping[str, str]) -> None:
    """UserError if a setting is off its default. reasons: why each of these settings would have no effect."""
    for field in fields(arguments):
        if field.name in reasons:
            default = field.default_factory() if field.default is MISSING else field.default
            if getattr(arguments, field.name) != default:
                no_effect(field.name, reasons[field.name])


def no_effect(name: str, why: str) -> None:
    raise UserError(name, f"it would have no effect: {why}", "leave it at its default")


def refuse_text_for_numbers(arguments: TrainingArguments) -> None:
    """UserError for '0.1', as a command line or YAML's 1e-6 gives it: arithmetic would fail later, without its name."""
    for field in fields(arguments):
        types, value = str(getattr(field.type, "__name__", field.type)), getattr(arguments, field.name)
        number = re.search(r"\b(int|float)\b", types) and not re.search(r"\b(str|dict|list|bool)\b", types)
        if number and isinstance(value, str):
            raise UserError(field.name, f"{value!r} is text", "give a number, without quotes")


# ---- data -----------------------------------------------------------------------------------------------------------


def given_pairs(
    config: type,
    args: Any,
    train: Any,
    evaluated: Any,
    ids: Sequence[str],
    model: Any,
    tokenizer: Any,
    trains: str = "train_dataset",
) -> tuple[Any, Any]:
    """A trainer's data sets as plain rows, checked. config: the class of its args; ids: the columns of token ids;
    trains: the argument that the first data set is."""
    if not isinstance(args, config):
        raise UserError("args", f"{type(args).__name__} is not a {config.__name__}", f"use {config.__name__}")
    if not isinstance(train, Sized):
        raise UserError(trains, "its length is not known, and the loss is a mean over pairs", "give a Dataset")
    train, evaluated = plain(train), plain(evaluated)
    for name, given in ((trains, train), ("eval_dataset", evaluated)):
        for data in data_sets(given):
            _check_pairs(data, name, ids, args, model, tokenizer)
    return train, evaluated


def data_sets(given: Any) -> list[Any]:
    """One data set, or several that a dictionary names."""
    return list(given.values()) if isinstance(given, dict) else [given]


def plain(given: Any) -> Any:
    """The same data with rows of lists and numbers, whatever format it had."""
    if isinstance(given, dict):
        return {name: plain(data) for name, data in given.items()}
    return given.with_format(None) if isinstance(given, Dataset) else given


def _check_pairs(data: Any, name: str, ids: Sequence[str], args: TrainingArguments, model: Any, tokenizer: Any) -> None:
    """Answers must be text, messages or token ids, and a tokenizer needs a template for messages."""
    columns = getattr(data, "column_names", None)
    if data is None or columns is None:
        return
    if not isinstance(data, Sized):
        raise UserError(name, "its length is not known", "give a Dataset")
    if not len(data):
        raise UserError(name, "it has no rows", "give pairs")
    tokenized = not set(ids).isdisjoint(columns)
    for column in ids if tokenized else ANSWERS:
        if column not in columns:
            raise UserError(name, f"it has no column `{column}`, only {', '.join(columns)}", "rename yours")
    texts = [column for column in ("prompt", *ANSWERS) if column in columns]
    if not tokenized and _are_messages(data.select_columns(texts), name):
        _require_template(args, model, tokenizer)
    chosen, rejected = ("chosen_ids", "rejected_ids") if tokenized else ANSWERS
    same = sum(row[chosen] == row[rejected] for row in data.select_columns([chosen, rejected]))
    if same == len(data):
        raise UserError(name, "chosen and rejected are the same in every row", "give two answers to a prompt")
    if same:
        warnings.warn(f"{name}: {same} of {len(data)} pairs have two answers alike, and teach nothing", stacklevel=4)


def check_numbers(given: Any, name: str, column: str, lowest: float, highest: float) -> None:
    """UserError unless the column holds finite numbers of this range in every data set.

    An evaluation set that is only named was checked when it was given.
    """
    for data in data_sets(given):
        if data is None or isinstance(data, str):
            continue
        if column not in (getattr(data, "column_names", None) or ()):
            raise UserError(name, f"it has no column `{column}`", f"add one, or choose another {column}")
        for row, value in enumerate(data[column]):
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not lowest <= value <= highest:
                within = f"numbers from {lowest} to {highest}" if math.isfinite(highest) else "finite numbers"
                raise UserError(name, f"the {column} of row {row} is {value!r}", f"give {within}")


def _are_messages(rows: Any, name: str) -> bool:
    """Are prompts and answers messages? UserError unless all are, or all are text."""
    kinds: set[str] = set()
    for number, row in enumerate(rows):
        for column, content in row.items():
            kinds.add(_kind(content))
            if "other" in kinds:
                problem = f"{column} of row {number} is {content!r:.40}"
                raise UserError(name, problem, "give text, or messages with content")
        if len(kinds) > 1:
            raise UserError(name, f"row {number} has text beside messages", "give one or the other")
    return kinds == {"messages"}


def _kind(content: Any) -> str:
    if isinstance(content, str):
        return "text"
    if not isinstance(content, list) or not content:
        return "other"
    return "messages" if all(isinstance(part, dict) and part.get("content") for part in content) else "other"


def _require_template(args: TrainingArguments, model: Any, tokenizer: Any) -> None:
    if getattr(args, "chat_template_path", None) is not None:
        return
    if tokenizer is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        tokenizer = AutoTokenizer.from_pretrained(name, **model_location(args))
    if getattr(tokenizer, "chat_template", None) is None:
        problem = "the tokenizer has no chat template, and the data set holds messages"
        raise UserError("processing_class", problem, "set tokenizer.chat_template, or give pairs as text")


def model_location(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that say where a model is loaded from: its configuration and tokenizer are there, too."""
    where = ("revision", "cache_dir", "token", "subfolder", "local_files_only", "trust_remote_code", "code_revision")
    given = {name: value for name, value in (args.model_init_kwargs or {}).items() if name in where}
    return {"trust_remote_code": args.trust_remote_code, **given}


def require_room(data: Sized, before: int, max_length: int | None, name: str) -> None:
    """UserError if TRL left out all of the pairs that were there `before`, as too long."""
    if before and not len(data):
        raise UserError(name, f"all {before} pairs are longer than max_length={max_length} tokens", "give shorter ones")
