"""Pairs of other sets for reward models to rank: whole, of no training prompt, and counted."""

import gzip
import json

import pytest
from omegaconf import OmegaConf

from alignment.data.columns import text_message
from alignment.data.same_prompts import turn_hashes
from alignment.inputs.transfer import transfer_files, transfer_pairs, transfer_prompts
from alignment.runs.ranks import Ranks
from alignment.types import UserError


def settings(folder) -> OmegaConf:
    return OmegaConf.create({"reward_model": {"transfer": ["hh_harmless"]}, "data": {"folder": str(folder)}})


@pytest.fixture
def folder(tmp_path):
    """Two usable dialogues, one with turns that don't agree, and in a second file another usable one."""

    def dialogue(question: str, answer: str) -> str:
        return f"\n\nHuman: {question}\n\nAssistant: {answer}"

    where = tmp_path / "hh_rlhf" / "harmless-base"
    where.mkdir(parents=True)
    files = {
        "train": [("How do I pick a lock?", "Ask a locksmith.", "With a pin."), ("Is it late?", "Yes.", "No.")],
        "test": [("Where is the sun?", "Above.", "Below.")],
    }
    for name, rows in files.items():
        lines = [
            {"chosen": dialogue(question, good), "rejected": dialogue(question, bad)} for question, good, bad in rows
        ]
        if name == "train":
            lines.insert(1, {"chosen": dialogue("One?", "a"), "rejected": dialogue("Other?", "b")})
        with gzip.open(where / f"{name}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_pairs_of_training_prompts_and_unusable_lines_are_left_out_and_counted(folder, capsys):
    trained_on = [{"prompt": text_message("user", "how do i PICK a lock")}]
    pairs = transfer_pairs(settings(folder), trained_on, Ranks())["hh_harmless"]
    assert [row["prompt"][0]["content"] for row in pairs] == ["Is it late?", "Where is the sun?"]
    assert pairs[0]["chosen"][-1]["content"] == "Yes." and len({row["id"] for row in pairs}) == 2
    assert "transfer to hh_harmless: 2 pairs; 2 left out" in capsys.readouterr().out


def test_a_set_that_asks_the_same_is_refused(folder):
    trained_on = [{"prompt": text_message("user", text)} for text in ("How do I pick a lock?", "Is it late?")]
    trained_on.append({"prompt": text_message("user", "Where is the sun?")})
    with pytest.raises(UserError, match=r"reward_model\.transfer: no pair of hh_harmless is left"):
        transfer_pairs(settings(folder), trained_on, Ranks())


def test_its_files_are_known(folder):
    assert {file.name for file in transfer_files(settings(folder))} == {"train.jsonl.gz", "test.jsonl.gz"}


def test_what_its_pairs_ask_is_known(folder):
    """Labelled answers to these prompts are set aside: margins must not come from labels of what is transferred to."""
    asked = transfer_prompts(settings(folder))["hh_harmless"]
    for text in ("How do I pick a lock?", "is it late", "Where is the sun?"):
        assert turn_hashes(text_message("user", text)) <= asked
    assert not turn_hashes(text_message("user", "Other?")) & asked
