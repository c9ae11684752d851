"""Evaluation pairs are scored as each would be alone, in their order, and none that is cut off is scored."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from alignment.data.chat import chat_format
from alignment.evaluation.pair_scores import SCORE_COLUMNS, as_texts, score_pairs, whole_pairs
from alignment.evaluation.reward_texts import RewardTexts
from alignment.models.load import Loaded
from alignment.models.packing import Packing
from alignment.models.scoring import reward_scores
from alignment.runs.ranks import Ranks
from alignment.types import UserError
from tests.conftest import byte_tokenizer, tiny_model

LONG = "a much longer answer " * 20  # than the model's 256 tokens


def row(name: str, chosen: str, rejected: str, severities: tuple[int | None, int | None] = (0, 3)) -> dict:
    chosen_severity, rejected_severity = severities
    return {
        "id": name, "harmful": True, "prompt": [{"role": "user", "content": f"what of {name}?"}],
        "chosen": [{"role": "assistant", "content": chosen}], "rejected": [{"role": "assistant", "content": rejected}],
        "chosen_severity": chosen_severity, "rejected_severity": rejected_severity,
    }  # fmt: skip


SETS = {
    "same": [row("a", "no", "yes, do this"), row("b", LONG, "short"), row("c", "x", "y" * 60, (None, 2))],
    "objects": [row("d", "longer than the other", "o", (1, 1)), row("e", "short", LONG)],
}


@pytest.fixture
def loaded() -> Loaded:
    tokenizer = byte_tokenizer("chatml")
    model = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    return Loaded(model, chat_format(tokenizer), set())


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_every_whole_pair_has_the_scores_its_answers_have_alone(loaded, packing, tmp_path):
    pairs = whole_pairs(loaded, SETS)
    assert [(pair.set, pair.row["id"]) for pair in pairs] == [("same", "a"), ("same", "c"), ("objects", "d")]
    pad_id = loaded.tokenizer.pad_token_id
    scores = score_pairs(loaded.model, pairs, Packing(packing, 512), pad_id, tmp_path / "batches", Ranks())
    assert [(one["set"], one["id"], one["severity_gap"]) for one in scores] == [
        ("same", "a", 3), ("same", "c", None), ("objects", "d", 0)
    ]  # fmt: skip
    for pair, found in zip(pairs, scores, strict=True):
        alone = torch.cat([reward_scores(loaded.model, [answer], pad_id) for answer in pair.answers])
        assert [found["chosen_score"], found["rejected_score"]] == pytest.approx(alone.tolist(), abs=1e-4)
        assert {*found, "margins", "seed"} == set(SCORE_COLUMNS.names)
    assert not (tmp_path / "batches").exists()


def test_pairs_of_other_sets_do_not_stand_for_held_out_ones_that_are_too_long(loaded):
    pairs, short, long = SETS["same"], [row("d", "x", "y")], [row("e", "x", LONG)]
    texts = RewardTexts.of(loaded, pairs, {"heldout": short, "hh_harmless": long}, 10**6, ["hh_harmless"])
    assert [pair.set for pair in texts.evaluation] == ["heldout"]
    line = r"evaluation pairs: every one{} is longer than the model's context; give shorter ones"
    with pytest.raises(UserError, match=line.format(" but those of reward_model.transfer")):
        RewardTexts.of(loaded, pairs, {"heldout": long, "hh_harmless": short}, 10**6, ["hh_harmless"])
    with pytest.raises(UserError, match=line.format("")):
        RewardTexts.of(loaded, pairs, {"heldout": long}, 10**6)


def test_their_texts_give_the_same_tokens(loaded):
    pairs = whole_pairs(loaded, SETS)
    texts, template_texts = as_texts(loaded.format, pairs)
    answers = [answer for pair in pairs for answer in pair.answers]
    assert [loaded.tokenizer(text)["input_ids"] for text in texts] == [list(answer.ids) for answer in answers]
    assert len(template_texts) == 6
