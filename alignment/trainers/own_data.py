"""What a user's own data, model and settings must have, looked at before a model is loaded: TRL's words come late."""

import re
import warnings
from collections.abc import Sized
from dataclasses import MISSING, fields
from typing import Any

from transformers import AutoTokenizer, TrainingArguments

from alignment.types import UserError

ANSWERS = ("chosen", "rejected")


# ---- settings -------------------------------------------------------------------------------------------------------


def is_default(arguments: TrainingArguments, name: str) -> bool:
    """Is this setting as nobody set it?"""
    field = next(one for one in fields(arguments) if one.name == name)
    default = field.default if field.default is not MISSING else field.default_factory()
    return getattr(arguments, name) == default


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


def check_pairs(data: Any, name: str, model: Any, tokenizer: Any) -> None:
    """Of one data set, or of several by name: both answers, as text, messages or token ids; a template for messages."""
    if isinstance(data, dict):
        for one in data.values():
            check_pairs(one, name, model, tokenizer)
        return
    columns = getattr(data, "column_names", None)
    if columns is None or not isinstance(data, Sized):
        return
    if not len(data):
        raise UserError(name, "it has no rows", "give pairs")
    ids = {f"{side}_ids" for side in ANSWERS}
    if not ids <= set(columns):
        for side in ANSWERS:
            if side not in columns:
                raise UserError(name, f"it has no column `{side}`, only {', '.join(columns)}", "rename yours")
        _check_answers(data, name)
        if isinstance(data[0][ANSWERS[0]], list):
            _require_template(model, tokenizer)
    sides = [f"{side}_ids" if ids <= set(columns) else side for side in ANSWERS]
    same = sum(row[sides[0]] == row[sides[1]] for row in data.select_columns(sides))
    if same == len(data):
        raise UserError(name, "chosen and rejected are the same in every row", "give two answers to a prompt")
    if same:
        warnings.warn(f"{name}: {same} of {len(data)} pairs have two answers alike, and teach nothing", stacklevel=4)


def _check_answers(data: Any, name: str) -> None:
    for number, row in enumerate(data.select_columns(list(ANSWERS))):
        for side, answer in row.items():
            if isinstance(answer, list) and answer and all(isinstance(one, dict) for one in answer):
                continue
            if not isinstance(answer, str):
                raise UserError(name, f"{side} of row {number} is {answer!r:.40}", "give text, or messages")


def _require_template(model: Any, tokenizer: Any) -> None:
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(model if isinstance(model, str) else model.config._name_or_path)
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            "processing_class", "the tokenizer has no chat template, and the data set holds messages",
            "set tokenizer.chat_template, or give pairs as text",
        )  # fmt: skip


def require_room(data: Sized, before: int, max_length: int | None, name: str) -> None:
    """After those pairs were left out that don't fit."""
    if before and not len(data):
        raise UserError(name, f"all {before} pairs are longer than max_length={max_length} tokens", "raise it")
