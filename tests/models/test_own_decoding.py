"""How answers are sampled where the settings leave it open: a model's own advice, which is said, else as it is."""

import json

import pytest

from alignment.models.own_decoding import with_own_decoding
from alignment.models.source import ModelSource, source_at
from alignment.settings.compose import compose_config

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
OPEN = dict.fromkeys(PLAIN)


def _source(folder, **advice) -> ModelSource:
    (folder / "generation_config.json").write_text(json.dumps(advice))
    return ModelSource(str(folder))


@pytest.mark.parametrize("recipe", ["cdpo", "best_of_n", "end_to_end", "table1", "scorecard"])
def test_the_worlds_model_is_sampled_as_it_is(recipe):
    sets = (
        ["evaluation.sets=[advbench]", "scorecard.before=world", "scorecard.after=world"]
        if recipe == "scorecard"
        else []
    )
    sampling, said = compose_config([f"+recipe={recipe}", *sets]).sampling, []
    settings = with_own_decoding(sampling, source_at("world"), said.append)
    assert {name: settings[name] for name in PLAIN} == PLAIN and not said
    assert {**settings, **OPEN} == dict(sampling), "the rest is as it was set"


def test_a_models_own_advice_is_taken_and_said(tmp_path):
    source, said = _source(tmp_path, do_sample=True, temperature=0.2, top_p=0.9), []
    assert with_own_decoding(OPEN, source, said.append) == PLAIN | {"temperature": 0.2, "top_p": 0.9}
    [line] = said
    assert "generation configuration says: temperature 0.2, top_p 0.9 (sampling.* overrides it)" in line


def test_what_is_set_overrides_it(tmp_path):
    source, said = _source(tmp_path, do_sample=True, temperature=0.2, top_p=0.9, top_k=20), []
    found = with_own_decoding({**OPEN, "temperature": 1.0, "top_k": 0}, source, said.append)
    assert found == PLAIN | {"top_p": 0.9}
    assert "says: top_p 0.9 (" in said[0]
    said.clear()
    assert with_own_decoding(PLAIN | {"n": 4}, source, said.append) == PLAIN | {"n": 4} and not said


def test_a_model_that_is_not_to_be_sampled_advises_nothing_of_it(tmp_path):
    source = _source(tmp_path, temperature=0.2, repetition_penalty=1.1)
    assert with_own_decoding(OPEN, source, print) == PLAIN | {"repetition_penalty": 1.1}
    assert with_own_decoding(OPEN, ModelSource(str(tmp_path / "nothing")), print) == PLAIN
