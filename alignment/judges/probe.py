"""A guard on a model's activations (models/guard.py) as a judge of harm: it reads, this says safe or unsafe."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.data.cells import BadRow
from alignment.judges.verdicts import Verdict
from alignment.models.answer_states import StateReader, Text, answer_text
from alignment.models.devices import device
from alignment.models.guard import Guard, guard_hash
from alignment.models.load import Loaded, load_backbone
from alignment.models.packing import Packing
from alignment.models.source import source_at
from alignment.types import Dtype, Message, UserError

KEY = "judge.probe"


class ProbeJudge:
    """counts: answers that were cut to fit the model's context."""

    name = "probe"

    def __init__(
        self,
        guard: Guard,
        loaded: Loaded,
        batch_tokens: int,
        threshold: float | None,
        file_hash: str,
        packing: Packing,
    ) -> None:
        """threshold: unsafe from this probability on; None: from the guard's own."""
        self._guard, self._batch_tokens = guard, batch_tokens
        self._threshold = guard.threshold if threshold is None else threshold
        self._reader = StateReader(loaded, guard.layers, packing)
        guard.require_model(self._reader)
        self.counts: Counter[str] = Counter()
        self.record: dict[str, Any] = {
            "judge": self.name,
            "guard": file_hash,
            "model": guard.meaning.model,
            "fit": guard.meaning.fit,
            "threshold": self._threshold,
        }

    def __call__(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        texts: dict[int, Text] = {}
        limit = min(self._guard.max_length, self._reader.limit)
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            try:
                texts[number] = answer_text(self._reader.loaded, prompt, answer, limit)
            except BadRow as error:
                verdicts[number] = Verdict(None, None, reason=str(error), unparsed=True)
        self.counts["cut"] += sum(text.cut for text in texts.values())
        if texts:
            harm, categories = self._guard.scores(self._reader.states(list(texts.values()), self._batch_tokens))
            for number, score, category in zip(texts, harm.tolist(), categories, strict=True):
                toxic = score >= self._threshold
                verdicts[number] = Verdict(toxic, None, category=category if toxic else None, score=score)
        return [verdicts[number] for number in range(len(answers))]


def load_probe(
    path: str,
    model: str | None,
    dtype: Dtype,
    batch_tokens: int,
    threshold: float | None,
    gguf_file: str | None = None,
    chat_template: str | None = None,
    packing: Mapping[str, Any] | None = None,
) -> ProbeJudge:
    """model: the model that the guard reads, null: under the name that its run had for it; gguf_file and chat_template
    say which file of its folder it is, and how its conversations are written. packing: conf/packing."""
    guard = Guard.load(path)
    name = model or guard.meaning.loaded_as
    if name is None:
        problem = f"the guard reads {guard.meaning.model}, a folder that its file doesn't name"
        raise UserError(f"{KEY}.model", problem, f"say where it is: {KEY}.model=...")
    try:
        source = source_at(name, f"{KEY}.model", gguf_file=gguf_file)
    except UserError as error:
        raise UserError(f"{KEY}.model", error.problem, f"give the model it was fitted on: {KEY}.model=...") from error
    loaded = load_backbone(replace(source, dtype=dtype, chat_template=chat_template), device())
    return ProbeJudge(guard, loaded, batch_tokens, threshold, guard_hash(Path(path)), Packing(**(packing or {})))
