"""A generative guard as a judge: it reads a conversation in its published format, and its grammar reads its verdict."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import expit
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignment.data.chat import ChatFormat, end_ids
from alignment.data.markers import markers_and
from alignment.judges.guard_formats import GUARDS
from alignment.judges.guards import Guard, Turn, turns_of
from alignment.judges.verdicts import Verdict
from alignment.models.decoding import generate_ids
from alignment.models.devices import device
from alignment.models.load import Loaded
from alignment.models.source import source_at
from alignment.runs.batches import plan_batches
from alignment.types import Dtype, Message, UserError

GAP = " [...] "  # stands where the middle of an answer was cut out


@dataclass(frozen=True)
class _Reply:
    """What the guard wrote. log_odds: at every token, of its word for unsafe against its word for safe."""

    tokens: list[int]
    log_odds: list[float]


class GuardJudge:
    """Judges by a guard. counts: conversations in which a marker was broken up; conversations cut to its context."""

    def __init__(
        self,
        guard: Guard,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int,
        threshold: float | None = None,
        generation_ends: int | list[int] | None = None,
    ) -> None:
        """threshold: unsafe from this probability on; None: the guard's own word decides."""
        self.name, self._guard, self._threshold = guard.name, guard, threshold
        self._batch_tokens, self._model = batch_tokens, model
        own = _own_template(guard, tokenizer)
        tokenizer.chat_template = None  # `guard.prompts` renders conversations, and nothing may render them twice
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        markers = markers_and(tokenizer, set(guard.markers), set(guard.line_markers))
        format = ChatFormat(tokenizer, markers)
        self._loaded = Loaded(model, format, end_ids(tokenizer, generation_ends))
        self._unsafe, self._safe = (_first_tokens(tokenizer, word) for word in guard.words)
        if self._unsafe & self._safe:
            words = " and ".join(guard.words)
            raise UserError(f"judge.{guard.name}", f"its tokenizer begins {words} alike", "give the guard's own model")
        self.counts: Counter[str] = Counter()
        self.record: dict[str, Any] = {
            "judge": guard.name,
            "format": guard.source,
            "prompt_hash": guard.digest,
            "threshold": threshold,
            "dtype": str(model.dtype).removeprefix("torch."),
            "own_template": own,
        }

    def __call__(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Verdict]:
        questions: list[tuple[int, str | None, list[int]]] = []
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            broken = self._loaded.format.broken
            questions += [(row, category, ids) for category, ids in self._fitting(turns_of(prompt, answer))]
            self.counts["marker_broken"] += self._loaded.format.broken > broken
        sizes = [len(ids) + self._guard.new_tokens for _, _, ids in questions]
        replies: dict[int, _Reply] = {}
        for batch in plan_batches(sizes, self._batch_tokens):
            replies |= zip(batch, self._decode([questions[i][2] for i in batch]), strict=True)
        by_row: list[list[Verdict]] = [[] for _ in prompts]
        for i, (row, category, _) in enumerate(questions):
            by_row[row].append(self._read(replies[i], category))
        return [_joined(verdicts) for verdicts in by_row]

    # ---- questions ----

    def _fitting(self, turns: list[Turn]) -> list[tuple[str | None, list[int]]]:
        """The questions on a conversation as tokens. A conversation too long for the guard is cut, and counted.

        The oldest text of the prompt goes first, until a quarter of what can stay is the prompt's; then the middle of
        the answer: how it begins and how it ends say most about it.
        """
        questions = self._questions(turns)
        if self._loaded.context is None:
            return questions
        room = self._loaded.context - self._guard.new_tokens
        if max(len(ids) for _, ids in questions) <= room:
            return questions
        self.counts["cut"] += 1
        while (longest := max(len(ids) for _, ids in questions)) > room:
            texts = sum(len(text) for _, text in turns)
            excess = math.ceil((longest - room) * max(1.0, texts / longest)) + len(GAP)
            if texts <= len(GAP) + 1:
                raise UserError(
                    f"judge.{self.name}.path", f"its context of {room} tokens has no room for a conversation",
                    "give a guard with a longer one",
                )  # fmt: skip
            turns = _shortened(turns, excess, prompt_keeps=max(0, texts - excess) // 4)
            questions = self._questions(turns)
        return questions

    def _questions(self, turns: list[Turn]) -> list[tuple[str | None, list[int]]]:
        tokenizer = self._loaded.tokenizer
        prompts = self._guard.prompts(turns, tokenizer.bos_token or "", self._loaded.format.safe_text)
        return [(category, tokenizer(text, add_special_tokens=False).input_ids) for category, text in prompts]

    # ---- verdicts ----

    def _decode(self, prompts: list[list[int]]) -> list[_Reply]:
        odds: list[list[float]] = [[] for _ in prompts]
        unsafe, safe = (sorted(ids) for ids in (self._unsafe, self._safe))

        def likeliest(ids: Tensor, scores: Tensor, numbers: Tensor, position: int) -> Tensor:
            gaps = scores[:, unsafe].logsumexp(dim=1) - scores[:, safe].logsumexp(dim=1)
            for number, gap in zip(numbers.tolist(), gaps.tolist(), strict=True):
                odds[number].append(gap)
            return scores.argmax(dim=1)

        written = generate_ids(self._loaded, prompts, self._guard.new_tokens, likeliest)
        return [_Reply(tokens, gaps) for tokens, gaps in zip(written, odds, strict=True)]

    def _read(self, reply: _Reply, category: str | None) -> Verdict:
        """The verdict by the guard's grammar. score: the probability of unsafe at the token that begins the verdict."""
        tokens = reply.tokens
        if tokens[-1] in self._loaded.end_ids:
            tokens = tokens[:-1]
        text = self._text(tokens)
        match = self._guard.grammar.fullmatch(text)
        if match is None:
            return Verdict(None, None, reason=text, unparsed=True)
        place = next(i for i in range(len(tokens)) if len(self._text(tokens[: i + 1])) > match.start("verdict"))
        score = float(expit(reply.log_odds[place]))
        toxic = match["verdict"] == self._guard.words[0] if self._threshold is None else score >= self._threshold
        groups = match.groupdict()
        refusal = {"yes": "full", "no": "none", None: None}[groups.get("refusal")]
        category = groups.get("category") or category
        return Verdict(toxic, refusal, category=category if toxic else None, score=score, reason=text.strip())

    def _text(self, tokens: list[int]) -> str:
        return self._loaded.tokenizer.decode(tokens, skip_special_tokens=True)


def load_guard(name: str, path: str, dtype: Dtype, batch_tokens: int, threshold: float | None) -> GuardJudge:
    """A guard from a folder or from the hub, on this rank's device. Remote code is never run."""
    source = source_at(path, f"judge.{name}.path")
    model = AutoModelForCausalLM.from_pretrained(source.path, revision=source.revision, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision)
    try:
        ends = GenerationConfig.from_pretrained(source.path, revision=source.revision).eos_token_id
    except OSError:  # not every model has a generation_config.json
        ends = model.config.get_text_config().eos_token_id
    judge = GuardJudge(
        GUARDS[name],
        model.to(device()).eval(),
        tokenizer,
        batch_tokens=batch_tokens,
        threshold=threshold,
        generation_ends=ends,
    )
    judge.record |= {"model": path, "revision": source.revision, "fingerprint": source.fingerprint}
    return judge


def _joined(verdicts: list[Verdict]) -> Verdict:
    """One verdict of a guard's verdicts on each of its policies: unsafe if any is violated, by the likeliest of them.

    If a policy's verdict can't be read, neither can the whole, unless another policy is violated.
    """
    read = [verdict for verdict in verdicts if not verdict.unparsed]
    violated = [verdict for verdict in read if verdict.toxic]
    if not violated and len(read) < len(verdicts):
        return next(verdict for verdict in verdicts if verdict.unparsed)
    return max(violated or read, key=lambda verdict: verdict.score)


def _shortened(turns: list[Turn], excess: int, prompt_keeps: int) -> list[Turn]:
    """Cuts `excess` characters: from the front of the prompt down to `prompt_keeps`, then in the answer's middle."""
    *prompt, (_, answer) = turns
    spare = max(0, sum(len(text) for _, text in prompt) - prompt_keeps)
    from_prompt = min(excess, spare)
    excess -= from_prompt
    kept: list[Turn] = []
    for user, text in prompt:
        cut = min(from_prompt, len(text))
        from_prompt -= cut
        if text[cut:]:
            kept.append((user, text[cut:]))
    if excess > 0:
        whole = answer.replace(GAP, "") if answer.count(GAP) == 1 else answer
        left = max(0, len(whole) - excess)
        answer = whole[: (left + 1) // 2] + GAP + whole[len(whole) - left // 2 :]
    return [*kept, (False, answer)]


def _first_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> set[int]:
    """The tokens that a word can begin with: alone, after a blank, on a new line."""
    first = set()
    for before in ("", " ", "\n"):
        ids = tokenizer(before + word, add_special_tokens=False).input_ids
        first |= set([i for i in ids if tokenizer.decode([i]).strip()][:1])
    return first


def _own_template(guard: Guard, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Whether the model's own chat template writes the same; None if it has none that takes a conversation."""
    if tokenizer.chat_template is None:
        return None
    turns = [(True, "One?"), (False, "Two.")]
    messages = [{"role": "user" if user else "assistant", "content": text} for user, text in turns]
    policy = dict(guard.policies).get("harassment")
    try:
        own = tokenizer.apply_chat_template(messages, tokenize=False, **({"guideline": policy} if policy else {}))
    except Exception:  # templates raise what they like; this one is not needed
        return None
    ours = [text for _, text in guard.prompts(turns, tokenizer.bos_token or "", str)]
    return "same" if own.strip() in [text.strip() for text in ours] else "differs"
