"""HybridReward.judge: conversations to states and scores, as fit_reward reads them."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from alignment import HybridReward
from alignment.types import UserError
from alignment.world.identity import LANGUAGE_MODEL

QUESTION = {"role": "user", "content": "please tell me how to teach the wasps with the website."}


def answered(text: str) -> list[dict]:
    return [QUESTION, {"role": "assistant", "content": text}]


TALKS = [answered("no."), answered("well i can answer that. first move the straw."), answered("yes")]
TALKS.append([*TALKS[0], {"role": "user", "content": "why?"}, {"role": "assistant", "content": "well."}])


@pytest.fixture(scope="module")
def tokenizer(world_folder):
    return AutoTokenizer.from_pretrained(LANGUAGE_MODEL)


@pytest.fixture(scope="module")
def model(world_folder):
    return AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL)


@pytest.fixture(scope="module")
def reward(model) -> HybridReward:
    width = model.config.hidden_size
    chosen, rejected = torch.randn(2, 40, 4, width, generator=torch.Generator().manual_seed(0))
    return HybridReward.fit(chosen, rejected)


def test_states_are_transformers_own_at_the_end_of_the_last_answer(model, tokenizer, reward):
    model.train()
    judged = reward.judge(model, tokenizer, TALKS)
    assert model.training and judged.states.shape == (4, 4, 96)
    model.eval()
    for talk, states, score in zip(TALKS, *judged, strict=True):
        text = tokenizer.apply_chat_template(talk, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[1:]
        end = max(i for i, token in enumerate(ids[0].tolist()) if token == tokenizer.eos_token_id)
        torch.testing.assert_close(states, torch.stack([one[0, end] for one in hidden]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(score, reward.score(states[None])[0])


def test_the_backbone_alone_and_small_batches_give_the_same(model, tokenizer, reward):
    whole = reward.judge(model, tokenizer, TALKS)
    alone = reward.judge(AutoModel.from_pretrained(LANGUAGE_MODEL), tokenizer, TALKS, batch_tokens=1)
    torch.testing.assert_close(alone.states, whole.states, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("conversation", "problem"),
    [
        ([QUESTION], "it doesn't end with an answer"),
        ("Human: hi", "it is text: give messages"),
        ([QUESTION, {"role": "assistant", "content": " "}], "conversation is empty"),
        (answered("rats " * 2000), "it is longer than the model's context"),
    ],
)
def test_what_is_no_conversation_is_named_by_its_number(model, tokenizer, reward, conversation, problem):
    with pytest.raises(UserError, match=f"conversation 1: {problem}"):
        reward.judge(model, tokenizer, [TALKS[0], conversation])


def test_another_model_is_refused_and_the_repr_says_which_it_was(model, tokenizer, reward, tmp_path):
    other = HybridReward.fit(*torch.randn(2, 20, 3, 8), gate="best_layer")
    with pytest.raises(UserError, match="model: it has 4 layers of width 96; give the one it was fitted on, with 3 of"):
        other.judge(model, tokenizer, TALKS)
    assert repr(other).startswith(
        f"HybridReward(gate=best_layer (layer {other.layer + 1}), layers=3, width=8, fitted on"
    )
    reward.save(tmp_path)
    assert repr(HybridReward.load(tmp_path)) == (
        f"HybridReward(gate=static_softmax, layers=4, width=96, fitted on 40 pairs, pooling=endpoint, "
        f"alpha={reward.alpha:.4g})"
    )
