"""A setting that is one of a few words: the words stand in types.py alone, and tables by them know them all."""

import ast
from typing import Literal, get_args, get_origin

import pytest

from alignment import types
from alignment.settings.compose import compose_config
from alignment.types import UserError
from tests.conftest import REPOSITORY

CHOICES = {name: get_args(choice) for name, choice in vars(types).items() if get_origin(choice) is Literal}


def test_no_choice_is_typed_twice():
    """Not as a list of words in the same or in another order; a table by word says what each is for."""
    known = {frozenset(words): name for name, words in CHOICES.items()}
    assert len(known) == len(CHOICES) > 20
    for path in (REPOSITORY / "alignment").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name != "types.py" and isinstance(node, ast.Tuple | ast.List | ast.Set):
                words = frozenset(one.value for one in node.elts if isinstance(one, ast.Constant))
                assert len(words) != len(node.elts) or words not in known, (path, node.lineno, known[words])


def test_what_goes_by_a_choice_knows_every_word():
    from alignment.reports.best_samples import SCORERS
    from alignment.stages.annotate import IN_SCOPE

    assert set(SCORERS) == set(get_args(types.Picker))
    assert set(IN_SCOPE) == set(get_args(types.Scope))


def test_a_preference_there_is_not_is_refused_before_any_data_are_looked_for():
    given = ["+recipe=inspect", "data=pku_saferlhf"]
    assert compose_config([*given, "data.preference=helpfulness"]).data.preference == "helpfulness"
    with pytest.raises(
        UserError, match=r"^data.preference: 'both' is not a choice; choose one of safety, helpfulness$"
    ):
        compose_config([*given, "data.preference=both"])
