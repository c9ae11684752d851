"""Markers, text that a tokenizer or a template would take for a special token or a role, and how they are broken up.

Special tokens are markers anywhere. What the template writes around contents is a marker where it could begin a turn:
anywhere if it begins with a bracket or another sign ("[INST]"), at the beginning of a line if it is words
("Assistant:"), after any other word if the template itself writes it in the middle of a line (" ASSISTANT:"). A line
begins after any character that ends one; blanks and characters of no width before its first word don't count.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tokenizers import NormalizedString, normalizers
from transformers import PreTrainedTokenizerBase

from alignment.data.cells import BadRow
from alignment.data.template import write

SENTINELS = ("\ue000", "\ue001", "\ue002", "\ue003")  # private-use characters no template contains
_PASSES = 8  # a single pass is enough unless breaking up a marker makes another
_NEW_LINE = "\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_NO_WIDTH = (  # control and format characters, characters to be ignored, and blanks that count as letters
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u115f\u1160"
    "\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_BLANK = rf"(?:[^\S{_NEW_LINE}]|[{_NO_WIDTH}▁])"
_LINE_START = rf"(?:(?m:^)|(?<=[{_NEW_LINE}])){_BLANK}*"
_BRACKETED = re.compile(r"(?<!\S)(?:<\S+>|\[\S+\])(?!\S)")  # "[INST]" and "<<SYS>>" of "[INST] <<SYS>>"


@dataclass(frozen=True)
class Markers:
    """The markers of a format. A space after its first character breaks one up, and a reader still sees it."""

    anywhere: frozenset[str] = field(default_factory=frozenset)
    in_lines: frozenset[str] = field(default_factory=frozenset)
    at_line_start: frozenset[str] = field(default_factory=frozenset)
    normalizer: normalizers.Normalizer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_written", self._pattern(lambda marker: {marker}))
        object.__setattr__(self, "_read", self._pattern(lambda marker: {marker, self._normal(marker).strip(" ▁")}))

    def broken_up(self, text: str) -> str:
        """The text without markers, neither as written nor as the tokenizer normalises it (NFKC makes "＜" a "<", other
        normalisers drop characters of no width). A text without markers stays as it is.
        """
        for _ in range(_PASSES):
            before = text
            text = self._written.sub(lambda match: _broken(match[0]), text)
            if self.normalizer is not None:
                text = self._broken_as_read(text)
            if text == before:
                return text
        raise BadRow("holds a marker of the chat template or tokenizer that a space doesn't break up")

    def with_anywhere(self, markers: set[str]) -> "Markers":
        return replace(self, anywhere=self.anywhere | markers)

    def with_lines(self, *lines: str) -> "Markers":
        return replace(self, at_line_start=self.at_line_start | set(lines))

    def _broken_as_read(self, text: str) -> str:
        if not self._read.search(self.normalizer.normalize_str(text)):
            return text
        read = NormalizedString(text)
        self.normalizer.normalize(read)
        for match in reversed(list(self._read.finditer(read.normalized))):
            start, marker = len(read[: match.start()].original), read[match.start() : match.end()].original
            text = text[:start] + _broken(marker) + text[start + len(marker) :]
        return text

    def _normal(self, marker: str) -> str:
        return marker if self.normalizer is None else self.normalizer.normalize_str(marker)

    def _pattern(self, forms) -> re.Pattern:
        kinds = (("", self.anywhere), (r"(?<!\w)", self.in_lines), (_LINE_START, self.at_line_start))
        parts = []
        for where, markers in kinds:
            every = {form for marker in markers for form in forms(marker) if form}
            parts += [where + re.escape(marker) for marker in sorted(every, key=lambda m: (-len(m), m))]
        return re.compile("|".join(parts) or "(?!)")


def markers_of(tokenizer: PreTrainedTokenizerBase) -> Markers:
    """The markers of a tokenizer and of its chat template."""
    special = _special_tokens(tokenizer)
    any_special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
    anywhere, in_lines, at_line_start = set(special), set(), set()
    words_after_special, before_content = set(), set()
    for piece, follows, precedes in _around_contents(tokenizer):
        lines = piece.split("\n")
        for i, line in enumerate(map(str.strip, lines)):
            if len(line) < 2:
                continue
            words = [word.strip() for word in any_special.split(line)]
            before_content |= {words[-1]} if precedes and i == len(lines) - 1 else set()
            anywhere |= {bracketed for word in words for bracketed in _BRACKETED.findall(word)}
            if words == [line] and line[0].isalnum():
                (in_lines if follows and i == 0 else at_line_start).add(line)
            else:  # "user" after a special token means nothing without it
                anywhere |= {word for word in words if len(word) > 1 and not word[0].isalnum()}
                words_after_special |= {word for word in words[1:] if len(word) > 1}
    # "</s>USER:" between turns, but "... polite answers. USER:" before the first: then it is a marker without the token
    in_lines |= {word for word in words_after_special for line in before_content if line.endswith(f" {word}")}
    return Markers(frozenset(anywhere), frozenset(in_lines), frozenset(at_line_start), _normalizer(tokenizer))


def markers_and(tokenizer: PreTrainedTokenizerBase, anywhere: set[str], at_line_start: set[str]) -> Markers:
    """The markers of a format that isn't the tokenizer's template, and the tokenizer's special tokens."""
    special = _special_tokens(tokenizer)
    return Markers(frozenset(special | anywhere), frozenset(), frozenset(at_line_start), _normalizer(tokenizer))


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    named = set(tokenizer.all_special_tokens)
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in named | added if len(token) > 1}


def _normalizer(tokenizer: PreTrainedTokenizerBase) -> normalizers.Normalizer | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else backend.normalizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that ordinary text never becomes: so not the token for characters that aren't known."""
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(special - set(tokenizer("".join(SENTINELS), add_special_tokens=False).input_ids))


def _around_contents(tokenizer: PreTrainedTokenizerBase) -> Iterable[tuple[str, bool, bool]]:
    """The texts that the template writes around contents; of each, does it follow a content, does it precede one?"""
    for roles in (("user", "assistant", "user"), ("system", "user", "assistant", "user")):
        turns = [{"role": role, "content": content} for role, content in zip(roles, SENTINELS, strict=False)]
        try:
            text = write(tokenizer, turns, waiting=True)
        except BadRow:
            if roles[0] != "system":  # many templates know no system message
                raise
            continue
        pieces = re.split("|".join(SENTINELS), text)
        yield from ((piece, i > 0, i < len(pieces) - 1) for i, piece in enumerate(pieces))


def _broken(marker: str) -> str:
    """The marker with a space after its first character; before that, blanks and characters of no width may stand."""
    at = len(re.match(rf"(?:\s|[{_NO_WIDTH}▁])*", marker)[0]) + 1
    at = at if at < len(marker) else 1
    return f"{marker[:at]} {marker[at:]}"
