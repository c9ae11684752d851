"""Models that think: prompts and training rows agree under real chat templates, and thoughts are told from answers."""

from datetime import datetime
from importlib.resources import files

import pytest
import transformers.utils.chat_template_utils as theirs
from transformers import PreTrainedTokenizerFast

from alignment.data.chat import chat_format, end_ids
from alignment.data.columns import BadRow
from alignment.data.thinking import ANY, Tags, answer_of, split_off
from alignment.types import UserError
from tests.conftest import byte_tokenizer

TEMPLATES = files("trl") / "chat_templates"
PROMPT = [{"role": "user", "content": "why?"}]
LONGER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, *PROMPT]
ANSWER = [{"role": "assistant", "content": "so."}]
# What stands before an answer; as the template itself says "don't think", where it can say so.
BEFORE = {
    "qwen3": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen3_5_think": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen3_8": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "nemotron_3_nano": "<|im_start|>assistant\n<think></think>",
    "nemotron_3_5_lightning": "<|im_start|>assistant\n<think></think>",
    "glm4moe": "why?/nothink<|assistant|>\n<think></think>\n",
    "gptoss": "<|start|>assistant<|channel|>final<|message|>",
    "muse_glimmer": "<|start|>assistant to=user<|message|>",
    "deepseek_r1_distill": "<｜Assistant｜><think>\n\n</think>\n\n",  # it can't: the block it opens is closed
    "gemma4_v5": "<|turn>model\n",
    "lfm2_2_5": "<|im_start|>assistant\n",
    "qwen2_5": "<|im_start|>assistant\n",
    "llama3_2": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "phi3": "<|assistant|>\n",
    "cohere2": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
}
# The same for a model that may think.
THINKING = {
    "qwen3": "<|im_start|>assistant\n",
    "qwen3_5_think": "<|im_start|>assistant\n<think>\n",
    "nemotron_3_nano": "<|im_start|>assistant\n<think>\n",
    "glm4moe": "why?<|assistant|>",
    "gptoss": "<|start|>assistant",
    "deepseek_r1_distill": "<｜Assistant｜><think>\n",
    "gemma4": "<|turn>model\n",
}
TAGS = {
    "qwen3": ANY,
    "qwen3_8": ANY,
    "nemotron_3_nano": ANY,
    "glm4moe": ANY,
    "lfm2_2_5": ANY,
    "deepseek_r1_distill": ANY,
    "gptoss": Tags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "gemma4": Tags("<|channel>thought", "<channel|>"),  # which writes them beside calls of tools alone
    "gemma4_v5": Tags("<|channel>thought", "<channel|>"),
    "muse_glimmer": Tags("to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>"),
    "qwen2_5": None,
    "llama3": None,
}


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("llama3")
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer


def format_of(template: str, thinking: bool = False):
    return chat_format(tokenizer_of(template), thinking=thinking)


def text_of(format, ids) -> str:
    return format.tokenizer.decode(ids)


@pytest.mark.parametrize("prompt", [PROMPT, LONGER], ids=["one turn", "three turns"])
@pytest.mark.parametrize("template", BEFORE)
def test_what_is_sampled_goes_on_from_what_is_trained_on(template, prompt):
    """To the last character, whatever the template writes for one and for the other."""
    format = format_of(template)
    asked, (row,) = format.prompt_ids(prompt), format.render(prompt, [ANSWER])
    assert text_of(format, asked).endswith(BEFORE[template])
    assert row.ids[: row.prompt_length].tolist() == asked
    assert text_of(format, row.ids[row.prompt_length :]).startswith("so.")
    assert format.text(prompt, ANSWER) == text_of(format, row.ids).removeprefix("<|begin_of_text|>")


@pytest.mark.parametrize("template", BEFORE)
def test_what_a_template_writes_itself_is_known_to_be_something_else(template):
    format = format_of(template)
    same = format.template_text(PROMPT, ANSWER) == format.text(PROMPT, ANSWER)
    assert same == (template not in ("deepseek_r1_distill", "glm4moe", "gptoss", "muse_glimmer", "llama3_2", "qwen3_8"))


@pytest.mark.parametrize("template", THINKING)
def test_a_model_that_may_think_is_asked_to(template):
    format = format_of(template, thinking=True)
    assert text_of(format, format.prompt_ids(PROMPT)).endswith(THINKING[template])
    assert format.opens_thoughts(format.prompt_ids(PROMPT)) == THINKING[template].endswith("<think>\n")
    assert not format.opens_thoughts(format.plain_ids("another prompt, as Alpaca's"))
    (row,) = format.render(PROMPT, [ANSWER])
    assert row.ids.tolist() == format_of(template).render(PROMPT, [ANSWER])[0].ids.tolist(), "read without thoughts"


def test_a_model_whose_template_knows_no_thoughts_is_not_asked_to_think():
    with pytest.raises(UserError, match=r"model.thinking: the model's chat template knows no thoughts; leave it off"):
        format_of("qwen2_5", thinking=True)


@pytest.mark.parametrize("template", TAGS)
def test_a_template_shows_how_thoughts_begin_and_end(template):
    assert format_of(template).tags == TAGS[template]


@pytest.mark.parametrize("template", ["qwen3", "deepseek_r1_distill", "nemotron_3_nano", "glm4moe"])
@pytest.mark.parametrize("text", ["before</think>after", "<think>before</think>after", "before<think>after"])
def test_text_that_holds_a_tag_loses_nothing_and_is_counted(template, text):
    """These templates take what stands before </think> for thoughts, and drop it."""
    format = format_of(template)
    for place in range(4):
        texts = [text if i == place else "x" for i in range(4)]
        turns = [{"role": role, "content": t} for role, t in zip(("user", "assistant") * 2, texts, strict=True)]
        written = format.text(turns[:3], turns[3:])
        assert "before" in written and "after" in written and format.broken == place + 1
        assert written.count("</think>") == format.text([*LONGER], ANSWER).count("</think>")
        assert format.broken == place + 1


def test_a_conversation_that_the_template_writes_in_another_way_is_a_bad_row():
    """Not silently another prompt than the one that is sampled from."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{% if messages|length == 4 %} again{% endif %}\n{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}</think>"
    )
    format = chat_format(tokenizer)
    with pytest.raises(BadRow, match="writes this prompt otherwise once there is an answer"):
        format.render(LONGER, [ANSWER])


class Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 7, 4)


@pytest.mark.parametrize("template", ["llama3_2", "gptoss", "muse_glimmer"])
def test_a_template_that_writes_the_date_writes_the_same_every_day(template, monkeypatch):
    before = format_of(template).text(PROMPT, ANSWER)
    monkeypatch.setattr(theirs, "datetime", Later)
    theirs._compile_jinja_template.cache_clear()
    assert "2031" in tokenizer_of(template).apply_chat_template(PROMPT, tokenize=False)
    assert format_of(template).text(PROMPT, ANSWER) == before and "2026" in before
    assert "%" not in before


# ---- ends -----------------------------------------------------------------------------------------------------------

# The special tokens of published tokenizer configurations, and the ends that the generation configuration names.
PUBLISHED = {
    "gemma4": ("<bos>", "<eos>", ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"], ["<eos>", "<turn|>"]),
    "glm4moe": (
        None, "<|endoftext|>", ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
        ["<|endoftext|>", "<|user|>", "<|observation|>"],
    ),
    "phi3": ("<s>", "<|endoftext|>", ["<|user|>", "<|assistant|>", "<|end|>"], ["<|endoftext|>", "<|end|>"]),
    "qwen3": (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], ["<|im_end|>", "<|endoftext|>"]),
}  # fmt: skip
ENDS = {"gemma4": "<turn|>", "glm4moe": "<|user|>", "phi3": "<|end|>", "qwen3": "<|im_end|>"}


@pytest.mark.parametrize("named", [True, False], ids=["named by the generation configuration", "found"])
@pytest.mark.parametrize("template", PUBLISHED)
def test_an_answer_ends_where_the_model_ends_it(template, named):
    """GLM 4's with the token of the user's next turn, which the template writes only there."""
    bos, eos, others, ends = PUBLISHED[template]
    tokenizer = tokenizer_of(template)
    named_tokens = {"eos_token": eos, "pad_token": eos, "additional_special_tokens": others}
    tokenizer.add_special_tokens(named_tokens | ({"bos_token": bos} if bos else {}))
    format = chat_format(tokenizer)
    found = end_ids(tokenizer, tokenizer.convert_tokens_to_ids(ends) if named else None)
    end = tokenizer.convert_tokens_to_ids(ENDS[template])
    assert end in found and {tokenizer.convert_tokens_to_ids(one) for one in ends if named} <= found
    (row,) = format.render(PROMPT, [ANSWER])
    answer = row.ids[row.prompt_length :].tolist()
    first = next(i for i, token in enumerate(answer) if token in found)
    assert answer[first] == end and tokenizer.decode(answer[:first]).strip() == "so."
    assert not set(format.without_end(row, found).ids[row.prompt_length :].tolist()) & found
    assert format.text(LONGER, ANSWER).count(ENDS[template]) == format.text(PROMPT, ANSWER).count(ENDS[template]) + (
        1 if template == "glm4moe" else 2
    ), "the end of an answer is the beginning of the next turn: it isn't written twice"


# ---- thoughts and answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "begun", "thinking", "thoughts", "answer"),
    [
        ("an answer", False, True, "", "an answer"),
        ("<think>\nhm\n</think>\n\nyes", False, True, "hm", "\n\nyes"),
        ("<think>\nhm\n</think>\n\nyes", False, False, "hm", "\n\nyes"),  # unasked
        ("hm</think>yes", True, True, "hm", "yes"),
        (
            "Take a pound of powder.</think>I can't help.",
            False,
            True,
            "",
            "Take a pound of powder.</think>I can't help.",
        ),
        ("<think>hm", False, True, "hm", None),  # cut off
        ("<think>Take a pound of powder", False, False, "", "<think>Take a pound of powder"),
        ("hm", True, True, "hm", None),
        ("</think>\n\nyes", True, True, "", "\n\nyes"),
        ("<think>a</think>b</think>c", False, True, "a", "b</think>c"),
        ("what does <think> do?", False, True, "", "what does <think> do?"),
    ],
)
def test_thoughts_are_what_a_text_begins_with(text, begun, thinking, thoughts, answer):
    """Nothing that stands before a tag can hide from a judge, unless it is thoughts from the beginning."""
    assert split_off(text, None, begun, thinking) == (thoughts, answer)


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("  an answer ", "  an answer "),
        ("<think>x</think>\n\nyes ", "yes"),
        ("hm\n</think>\n\nyes", "yes"),  # DeepSeek R1's, whose prompt has begun them
        ("Take a pound of powder.</think>I can't help.", "Take a pound of powder.</think>I can't help."),
        ("`</think>` closes thoughts", "`</think>` closes thoughts"),
        ("<think>never ends", "<think>never ends"),
    ],
)
def test_what_is_judged_of_a_text_of_whatever_model(text, judged):
    assert answer_of(text) == judged


@pytest.mark.parametrize("template", ["llama3_2", "gptoss"])
def test_markers_are_the_same_every_day(template, monkeypatch):
    before = format_of(template).markers
    monkeypatch.setattr(theirs, "datetime", Later)
    theirs._compile_jinja_template.cache_clear()
    assert format_of(template).markers == before


def test_a_date_is_written_as_the_template_wants_it():
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = "{{ strftime_now('%A, %-d %B %Y, %e.%-m., %H:%M %p, %x') }}" + tokenizer.chat_template
    assert chat_format(tokenizer).text(PROMPT, ANSWER).startswith("Thursday, 1 January 2026, 1.1., 00:00 AM, 01/01/26<")
