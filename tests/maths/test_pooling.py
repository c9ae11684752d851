"""Response ends on rows written out by hand: end tokens in the prompt, none at all, truncation, both padding sides."""

import pytest
import torch

from alignment.maths.pooling import Answers, find_spans, pool

PAD, END, TURN = 0, 9, 8  # PAD may equal END in real tokenizers; see the row for it
ROWS = {
    # name: (ids, completion from, completion to, endpoint, last_text, ended)
    "ends": ([1, 2, 3, 4, 5, END], 3, 6, 5, 4, True),
    "template goes on after the end": ([1, 2, 3, 4, TURN, 7], 3, 6, 4, 3, True),
    "cut": ([1, 2, 3, 4, 5, 6], 3, 6, 5, 5, False),
    "an end in the prompt": ([1, END, 3, 4, 5, 6], 3, 6, 5, 5, False),
    "two ends": ([1, 2, 3, TURN, END, 6], 3, 6, 4, 3, True),
    "only the end": ([1, 2, 3, 4, 5, END], 5, 6, 5, 4, True),
}


def batch(side: str, extra: int) -> tuple[torch.Tensor, Answers]:
    """All rows with `extra` padding tokens on one side; the padding token is END itself for every second row."""
    ids = []
    places = []
    for number, (row, start, stop, *_) in enumerate(ROWS.values()):
        padding = [END if number % 2 else PAD] * extra
        ids.append(padding + row if side == "left" else row + padding)
        shift = extra if side == "left" else 0
        places.append((number, start + shift, stop + shift))
    return torch.tensor(ids), Answers(*torch.tensor(places).T)


def test_answers_may_share_a_row():
    """The second one of a packed row, which begins in its middle."""
    ids = torch.tensor([[1, 2, 3, END, 2, 4, 5, TURN, 6]])
    answers = Answers(*torch.tensor([[0, 0], [2, 5], [4, 9]]))
    assert find_spans(ids, answers, {END, TURN}).start.tolist() == [3, 7]
    assert find_spans(ids, answers, {END}).start.tolist() == [3, 8]
    hidden = torch.arange(9.0)[None, :, None]
    assert pool(hidden, find_spans(ids, answers, {END}, "mean")).flatten().tolist() == [2.5, 6.5]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 3])
def test_response_ends(side, extra):
    ids, answers = batch(side, extra)
    shift = extra if side == "left" else 0
    for pooling, column in (("endpoint", 3), ("last_text", 4)):
        spans = find_spans(ids, answers, {END, TURN}, pooling)
        assert (spans.start - shift).tolist() == [row[column] for row in ROWS.values()]
        assert (spans.stop - spans.start).tolist() == [1] * len(ROWS)
        assert spans.ended.tolist() == [row[5] for row in ROWS.values()]
    spans = find_spans(ids, answers, {END, TURN}, "mean")
    assert (spans.start - shift).tolist() == [row[1] for row in ROWS.values()]
    assert (spans.stop - shift).tolist() == [row[2] for row in ROWS.values()]


@pytest.mark.parametrize("pooling", ["endpoint", "last_text", "mean"])
def test_pool_is_the_mean_over_the_span(pooling):
    ids, answers = batch("right", 2)
    hidden = torch.randn(*ids.shape, 4, generator=torch.Generator().manual_seed(0))
    spans = find_spans(ids, answers, {END, TURN}, pooling)
    expected = [row[start:stop].mean(dim=0) for row, start, stop in zip(hidden, spans.start, spans.stop, strict=True)]
    torch.testing.assert_close(pool(hidden, spans), torch.stack(expected))


def test_padding_is_never_read():
    """States of padding are NaN here: not one may reach the result."""
    ids, answers = batch("right", 3)
    hidden = torch.zeros(*ids.shape, 2)
    hidden[:, 6:] = float("nan")
    for pooling in ("endpoint", "last_text", "mean"):
        assert pool(hidden, find_spans(ids, answers, {END, TURN}, pooling)).isfinite().all()


def test_a_row_without_an_answer_is_refused():
    ids, answers = batch("right", 0)
    answers.stop[2] = answers.start[2]
    with pytest.raises(ValueError, match="an answer without tokens"):
        find_spans(ids, answers, {END}, "endpoint")
