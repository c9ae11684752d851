"""From messages to token ids: the only place that renders a template.

Text in data is text: before a template sees it, anything in it that the template or the tokenizer would take for a
role marker or a special token ("<|im_start|>", "</s>", "[INST]") is broken up by a space, and counted. The ids are
checked all the same: a conversation holds the special tokens its template writes and no others, or it is a bad row.

The same text stands before an answer whether it is read or sampled: thoughts are off (thinking.py), unless a model is
to think while it is sampled.
"""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from alignment.data.cells import BadRow
from alignment.data.columns import text_message
from alignment.data.markers import SENTINELS, Markers, markers_of, special_ids
from alignment.data.template import write
from alignment.data.thinking import Opening, Tags, markers_in, opening_of, tags_of
from alignment.types import Message, UserError

# For models without a chat template, as hh-rlhf writes dialogues. Documented in docs/data.md.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '\n\nAssistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ '\n\nSystem: ' + message['content'] }}"
    "{% else %}{{ '\n\nHuman: ' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
OPENING_TOKENS = 32  # more than any template writes after the last message
PLAIN_STOP = "\n\nHuman:"  # here a model that knows no turns has begun to write the user's next one
# The no-input form of Alpaca's prompt, which Legend's code uses.
ALPACA_PROMPT = (
    "Below is an instruction that describes a task. Write a response that completes the request.\n\n"
    "### Instruction:\n{input}\n\n### Response:"
)
_ALPACA_LINES = ("### Instruction:", "### Response:", "Human:", "Assistant:", "System:")  # roles in that format


@dataclass(frozen=True)
class Rendered:
    """A prompt and its answer as token ids; the answer, end of turn included, starts at `prompt_length`."""

    ids: np.ndarray  # int32: a data set of them is held at once
    prompt_length: int
    truncated: bool


@dataclass
class ChatFormat:
    """Writes one model's conversations.

    tags: how the template writes thoughts. opening: what stands before an answer, if it isn't the same everywhere.
    ending: what ends an answer that nothing follows, where the template leaves that to the next turn.
    thinking: may a sampled answer begin with thoughts?
    broken: the number of texts in which a marker had to be broken up.
    """

    tokenizer: PreTrainedTokenizerBase
    markers: Markers
    tags: Tags | None = None
    opening: Opening | None = None
    ending: str = ""
    thinking: bool = False
    broken: int = field(default=0)
    _written: dict[tuple, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def prompt_ids(self, prompt: list[Message]) -> list[int]:
        """The conversation up to where the next answer begins, or its thoughts, if it may have some."""
        return self._ids(self._safe(prompt), waiting=True, thinking=self.thinking)

    def opens_thoughts(self, prompt_ids: list[int]) -> bool:
        """Does the prompt itself begin the thoughts of its answer?"""
        return self.thinking and self.tags.opened(self.tokenizer.decode(prompt_ids[-OPENING_TOKENS:]))

    def render(
        self, prompt: list[Message], answers: list[list[Message]], max_length: int | None = None
    ) -> list[Rendered]:
        """A prompt with each of its answers, cut at the end where that is longer than `max_length` tokens."""
        prompt = self._safe(prompt)
        before = self._ids(prompt, waiting=True)
        return [
            rendered(before, self._ids(prompt + self._safe(answer), waiting=False), max_length) for answer in answers
        ]

    def render_alpaca(
        self, prompt: list[Message], answers: list[list[Message]], joiner: str, max_length: int | None = None
    ) -> list[Rendered]:
        """Legend's own format: Alpaca's prompt, the joiner, the answer, no end token."""
        head = self.alpaca_prompt(prompt)
        before = self._text_ids(head)
        texts = [head + joiner + self._safe(answer, self._alpaca_markers)[-1]["content"] for answer in answers]
        return [rendered(before, self._text_ids(text), max_length) for text in texts]

    def alpaca_prompt(self, prompt: list[Message]) -> str:
        """Alpaca's prompt, up to "### Response:"."""
        return ALPACA_PROMPT.format(input=_dialogue(self._safe(prompt, self._alpaca_markers)))

    def plain_ids(self, text: str) -> list[int]:
        """Text outside any template, with the tokens that the tokenizer adds to any text."""
        return self._text_ids(self.safe_text(text))

    def without_end(self, answer: Rendered, ends: set[int]) -> Rendered:
        """An answer without the end of turn that the template wrote, for one that was cut off while it was sampled."""
        positions = [i for i in range(answer.prompt_length, len(answer.ids)) if int(answer.ids[i]) in ends]
        count = sum(i in ends for i in self.ids_after)  # some templates write two end tokens
        if not count or not positions:
            return answer
        return Rendered(answer.ids[: positions[-count:][0]], answer.prompt_length, answer.truncated)

    @cached_property
    def ids_after(self) -> list[int]:
        """The tokens that the template writes after an answer."""
        return _ids_after_an_answer(self.tokenizer)

    @property
    def stop(self) -> str | None:
        """The text at which a generated answer is over although no token says so."""
        return PLAIN_STOP if self.tokenizer.chat_template == PLAIN_TEMPLATE else None

    def text(self, prompt: list[Message], answer: list[Message]) -> str:
        """Prompt and answer as a pipeline takes them: without the BOS that tokenizing adds by itself."""
        return self._without_bos(self._text(self._safe(prompt) + self._safe(answer), waiting=False))

    def template_text(self, prompt: list[Message], answer: list[Message]) -> str:
        """Prompt and answer as the template itself writes them today: other thoughts and dates, all else as `text`."""
        messages = self._safe(prompt) + self._safe(answer)
        return self._without_bos(self.tokenizer.apply_chat_template(messages, tokenize=False))

    def _without_bos(self, text: str) -> str:
        bos = self.tokenizer.bos_token
        adds_bos = bos and self.tokenizer("").input_ids[:1] == [self.tokenizer.bos_token_id]
        return text.removeprefix(bos) if adds_bos else text

    def _ids(self, messages: list[Message], waiting: bool, thinking: bool = False) -> list[int]:
        ids = self._tokens(messages, waiting, thinking)
        key = (waiting, thinking, *(message["role"] for message in messages))
        if key not in self._written:
            blank = [{**message, "content": SENTINELS[0]} for message in messages]
            self._written[key] = self._special(self._tokens(blank, waiting, thinking))
        return self._checked(ids, self._written[key])

    def _tokens(self, messages: list[Message], waiting: bool, thinking: bool) -> list[int]:
        return self.tokenizer(self._text(messages, waiting, thinking), add_special_tokens=False).input_ids

    def _text(self, messages: list[Message], waiting: bool, thinking: bool = False) -> str:
        """The conversation as the template writes it, but with the same text before every answer (`opening`)."""
        text = write(self.tokenizer, messages, waiting, thinking)
        if waiting:
            return text if self.opening is None or thinking else self.opening.prompt(text)
        if messages[-1]["role"] != "assistant":
            return text
        if self.opening is not None:
            text = self.opening.conversation(write(self.tokenizer, messages[:-1], waiting=True), text)
        return text + self.ending

    def _text_ids(self, text: str) -> list[int]:
        return self._checked(self.tokenizer(text).input_ids, self._special_alone)

    def _checked(self, ids: list[int], written: tuple[int, ...]) -> list[int]:
        if self._special(ids) != written:
            raise BadRow("the tokenizer finds special tokens in its text")
        return ids

    def _special(self, ids: list[int]) -> tuple[int, ...]:
        special = self._special_ids
        return tuple(i for i in ids if i in special)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return special_ids(self.tokenizer)

    @cached_property
    def _special_alone(self) -> tuple[int, ...]:
        return self._special(self.tokenizer("").input_ids)  # a BOS, if the tokenizer adds one to every text

    @cached_property
    def _alpaca_markers(self) -> Markers:
        return self.markers.with_lines(*_ALPACA_LINES)

    def _safe(self, messages: list[Message], markers: Markers | None = None) -> list[Message]:
        return [{**message, "content": self.safe_text(message["content"], markers)} for message in messages]

    def safe_text(self, text: str, markers: Markers | None = None) -> str:
        """Text that neither the template nor the tokenizer takes for anything but text."""
        safe = (markers or self.markers).broken_up(text)
        self.broken += safe != text
        return safe


def chat_format(
    tokenizer: PreTrainedTokenizerBase, template_file: str | None = None, thinking: bool = False
) -> ChatFormat:
    """The format of a Jinja file, or the model's own, or the plain one if the model has none.

    thinking: may sampled answers begin with thoughts, as far as that is for the template to say?
    """
    if template_file is not None:
        if not Path(template_file).is_file():
            raise UserError("model.chat_template", f"there is no file {template_file}", "give a Jinja file, or null")
        tokenizer.chat_template = Path(template_file).read_text(encoding="utf-8")
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    writes = partial(write, tokenizer)
    tags = tags_of(writes, str(tokenizer.chat_template), *SENTINELS[:3])
    if thinking and tags is None:
        raise UserError("model.thinking", "the model's chat template knows no thoughts", "leave it off")
    markers = markers_of(tokenizer).with_anywhere(markers_in(tags))
    opening, ending = opening_of(writes, tags, *SENTINELS[:2]), _ending_of(tokenizer)
    format = ChatFormat(tokenizer, markers, tags, opening, ending, thinking)
    _agree_on_bos(format)
    return format


def _agree_on_bos(format: ChatFormat) -> None:
    """Keeps the tokenizer from adding a BOS where the template writes none, here and where users tokenize text."""
    prompt, answer = text_message("user", "a"), text_message("assistant", "b")
    for _ in range(2):  # as the tokenizer came, then without a BOS
        if format.render(prompt, [answer])[0].ids.tolist() == format.tokenizer(format.text(prompt, answer)).input_ids:
            return
        format.tokenizer.add_bos_token = False
    raise UserError(
        "model.chat_template",
        "the tokenizer adds special tokens to text that this template doesn't write",
        "give a template that writes them",
    )


def rendered(prompt_ids: list[int], ids: list[int], max_length: int | None) -> Rendered:
    """The answer starts where `ids` first differ from the prompt's (a merge of tokens may blur the border)."""
    shared = 0
    while shared < min(len(prompt_ids), len(ids)) and prompt_ids[shared] == ids[shared]:
        shared += 1
    truncated = max_length is not None and len(ids) > max_length
    return Rendered(np.asarray(ids[:max_length], dtype=np.int32), shared, truncated)


def end_ids(tokenizer: PreTrainedTokenizerBase, generation_eos: int | list[int] | None) -> set[int]:
    """Every token that ends a turn: the generation configuration's, the tokenizer's, and the template's."""
    ids = set(generation_eos if isinstance(generation_eos, list) else [generation_eos]) | {tokenizer.eos_token_id}
    if tokenizer.chat_template is not None:
        ids |= set(_ids_after_an_answer(tokenizer)[:1]) & _added_ids(tokenizer)
    return ids - {None}


def _added_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens, and all others that were added to the vocabulary."""
    return set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


def _ids_after_an_answer(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the template writes after an answer, or leaves to the next turn."""
    after = _after_an_answer(tokenizer) + _ending_of(tokenizer)
    return tokenizer(after, add_special_tokens=False).input_ids


def _ending_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The end of an answer where the template leaves it to the next turn, as GLM 4's does with <|user|>; or ""."""
    if _after_an_answer(tokenizer).strip():
        return ""
    following = _after_an_answer(tokenizer, {"role": "user", "content": SENTINELS[2]}).lstrip()
    first = tokenizer(following, add_special_tokens=False).input_ids[:1]
    return tokenizer.convert_ids_to_tokens(first)[0] if set(first) & _added_ids(tokenizer) else ""


def _after_an_answer(tokenizer: PreTrainedTokenizerBase, *following: Message) -> str:
    turns = [{"role": "user", "content": SENTINELS[0]}, {"role": "assistant", "content": SENTINELS[1]}, *following]
    return write(tokenizer, turns, waiting=False).rpartition(SENTINELS[1])[2]


def _dialogue(prompt: list[Message]) -> str:
    """A single turn as it is; several turns as hh-rlhf writes them, up to where the answer begins."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in prompt)
    return f"{turns}\n\nAssistant:"
