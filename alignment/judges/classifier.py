"""Any sequence classifier as a judge: how likely its label for harm is, for a prompt and an answer as a pair."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment.data.chat import ChatFormat
from alignment.data.markers import markers_and
from alignment.judges.guards import turns_of
from alignment.judges.verdicts import Verdict
from alignment.models.devices import device
from alignment.models.source import source_at
from alignment.runs.batches import plan_batches
from alignment.types import ClassifierInput, Dtype, Message, UserError

KEY = "judge.classifier"


class ClassifierJudge:
    """Judges by a classifier. counts: texts in which a special token was broken up; answers cut to fit the context."""

    name = "classifier"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        unsafe_label: str,
        reads: ClassifierInput,
        batch_tokens: int,
        threshold: float,
    ) -> None:
        """reads: the "pair" of prompt and answer, or the "answer" alone. threshold: unsafe from this probability on."""
        labels = {str(label): number for number, label in model.config.id2label.items()}
        if unsafe_label not in labels:
            raise UserError(
                f"{KEY}.unsafe_label", f"the model has no {unsafe_label!r}", f"its labels are {', '.join(labels)}"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        self._model, self._tokenizer, self._label = model, tokenizer, labels[unsafe_label]
        self._format = ChatFormat(tokenizer, markers_and(tokenizer, set(), set()))
        self._reads, self._batch_tokens, self._threshold = reads, batch_tokens, threshold
        self._context = min(getattr(model.config, "max_position_embeddings", None) or 2**31, tokenizer.model_max_length)
        self.counts: Counter[str] = Counter()
        self.record: dict[str, Any] = {
            "judge": self.name,
            "unsafe_label": unsafe_label,
            "labels": list(labels),
            "reads": reads,
            "threshold": threshold,
        }

    def __call__(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[Verdict]:
        rows = [self._ids(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        scores = [0.0] * len(rows)
        for batch in plan_batches([len(row["input_ids"]) for row in rows], self._batch_tokens):
            for i, score in zip(batch, self._scores([rows[i] for i in batch]), strict=True):
                scores[i] = score
        return [Verdict(score >= self._threshold, None, score=score) for score in scores]

    def _ids(self, prompt: list[Message], answer: str) -> dict[str, list[int]]:
        broken = self._format.broken
        *before, (_, text) = [(user, self._format.safe_text(text)) for user, text in turns_of(prompt, answer)]
        self.counts["marker_broken"] += self._format.broken > broken
        conversation = "\n\n".join(turn for _, turn in before)
        texts = (conversation, text) if self._reads == "pair" else (text,)
        row = self._tokenizer(*texts)
        if len(row["input_ids"]) <= self._context:
            return row
        self.counts["cut"] += 1
        if len(texts) == 1:
            return self._tokenizer(text, truncation=True, max_length=self._context)
        ids = self._tokenizer(conversation, add_special_tokens=False)["input_ids"]
        if len(ids) > self._context // 4:  # the answer is to the end of the prompt
            conversation = self._tokenizer.decode(ids[-(self._context // 4) :])
        return self._tokenizer(conversation, text, truncation="only_second", max_length=self._context)

    @torch.inference_mode()
    def _scores(self, rows: list[dict[str, list[int]]]) -> list[float]:
        batch = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
        logits = self._model(**batch).logits.float()
        return self._probabilities(logits)[:, self._label].tolist()

    def _probabilities(self, logits: Tensor) -> Tensor:
        """The probability of each label (row, label): of labels that exclude each other, or of each by itself."""
        multi_label = self._model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label or logits.shape[1] == 1 else logits.softmax(dim=1)


def load_classifier(
    path: str, dtype: Dtype, unsafe_label: str, reads: ClassifierInput, batch_tokens: int, threshold: float
) -> ClassifierJudge:
    """A classifier from a folder or from the hub, on this rank's device. Remote code is never run."""
    source = source_at(path, f"{KEY}.path")
    model = AutoModelForSequenceClassification.from_pretrained(source.path, revision=source.revision, dtype=dtype)
    judge = ClassifierJudge(
        model.to(device()).eval(),
        AutoTokenizer.from_pretrained(source.path, revision=source.revision),
        unsafe_label=unsafe_label,
        reads=reads,
        batch_tokens=batch_tokens,
        threshold=threshold,
    )
    judge.record |= {"model": path, "revision": source.revision, "fingerprint": source.fingerprint}
    return judge
