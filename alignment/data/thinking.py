"""Models that think before they answer: how their templates write thoughts, and where an answer begins.

Templates differ in what they write between a prompt and its answer: nothing, an empty block of thoughts, a block that
is only opened, the name of a channel. A sampled answer must follow the very text that stands before the answer in
training, so that text is settled here once for a template (`Opening`), with thoughts switched off.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from alignment.data.cells import BadRow
from alignment.types import Message

Write = Callable[..., str]  # gives the template's text of messages; its second argument: is an answer to follow?


@dataclass(frozen=True)
class Tags:
    """The texts before and after thoughts."""

    start: str
    end: str

    def opened(self, text: str) -> bool:
        """Does a text begin thoughts without ending them?"""
        return text.rfind(self.start) > text.rfind(self.end)


ANY = Tags("<think>", "</think>")  # for a template that doesn't write thoughts
KNOWN = (ANY, Tags("<|channel>thought", "<channel|>"), Tags("[THINK]", "[/THINK]"))  # looked for in such a template


def tags_of(write: Write, source: str, question: str, answer: str, thoughts: str) -> Tags | None:
    """The tags of a template; None if it knows no thoughts.

    source: the template itself. question, answer, thoughts: texts that it doesn't hold.
    """
    turns = [{"role": "user", "content": question}]
    waiting = write(turns, True)
    turns.append({"role": "assistant", "content": answer, "reasoning_content": thoughts})
    before, written, after = write(turns, False).partition(thoughts)
    if not written or answer not in after:
        return next((tags for tags in KNOWN if tags.end in source), None)
    end = after.partition(answer)[0].strip()
    named = re.fullmatch(r"([<\[])/(\S+)", end)  # "</think>" ends what "<think>" begins
    return Tags("".join(named.groups()) if named else before.removeprefix(_shared(before, waiting)).strip(), end)


@dataclass(frozen=True)
class Opening:
    """The texts between a prompt and its answer, after what all of them begin with.

    waiting: the template's where it waits for an answer; written: the template's where it writes an answer; ours: what
    we write in both places.
    """

    waiting: str
    written: str
    ours: str

    def prompt(self, waiting: str) -> str:
        """The prompt with our opening; `waiting` is the template's."""
        if not waiting.endswith(self.waiting):
            raise BadRow("the chat template ends this prompt in another way than others")
        return waiting[: len(waiting) - len(self.waiting)] + self.ours

    def conversation(self, waiting: str, whole: str) -> str:
        """Prompt and answer with our opening; `waiting` is the template's prompt, `whole` its prompt and answer."""
        prompt = self.prompt(waiting)
        before = waiting[: len(waiting) - len(self.waiting)]
        if not whole.startswith(before):
            raise BadRow("the chat template writes this prompt otherwise once there is an answer")
        return prompt + whole[len(before) :].removeprefix(self.written)


def opening_of(write: Write, tags: Tags | None, question: str, answer: str) -> Opening | None:
    """The opening of a template; None if it writes the same whether it waits for an answer or writes one."""
    turns: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    waiting, written = write(turns[:1], True), write(turns, False).partition(answer)[0]
    if waiting == written:
        return None
    before = _shared(waiting, written)
    if tags is not None and not tags.opened(written) and tags.opened(waiting):
        # the whole block of thoughts is exchanged, not what is left of it behind a first character that agrees
        start = waiting.rfind(tags.start)
        before = before[:start] if start >= 0 else before
        closed = written if tags.end in written[len(before) :] else f"{waiting}\n{tags.end}\n\n"
        ours = closed[len(before) :]
    else:
        ours = (written if written.startswith(waiting) else waiting)[len(before) :]
    return Opening(waiting[len(before) :], written[len(before) :], ours)


def split_off(text: str, tags: Tags | None, begun: bool = False, thinking: bool = False) -> tuple[str, str | None]:
    """The thoughts that a text begins with, and the answer that follows them. Thoughts that never end leave no answer
    (None) if the model may think, and are the answer if it may not.

    begun: do thoughts begin before the text? A text that doesn't begin with thoughts has none, whatever tags it holds:
    or an answer could hide from its judges.
    """
    tags = tags or ANY
    if not begun and not text.lstrip().startswith(tags.start):
        return "", text
    before, ended, after = text.partition(tags.end)
    if not ended and not (begun or thinking):
        return "", text
    return before.strip().removeprefix(tags.start).strip(), after if ended else None


def answer_of(text: str) -> str:
    """Any model's text, without the thoughts that it begins with.

    Where the prompt began the thoughts, as DeepSeek R1's does, their end tag stands on a line of its own.
    """
    begun = ANY.start not in text and re.search(rf"^{ANY.end}$", text, re.MULTILINE) is not None
    _, answer = split_off(text, None, begun)
    return text if answer is None or answer == text else answer.strip()


def markers_in(tags: Tags | None) -> set[str]:
    """The tags that are one word between brackets, as "<think>": other tags are special tokens already."""
    words = () if tags is None else (tags.start, tags.end)
    return {word for word in words if re.fullmatch(r"<\S+>|\[\S+\]", word)}


def _shared(first: str, second: str) -> str:
    """What both texts begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))]
