"""States that are kept: the same numbers up to half precision, found for exactly the texts they were read of."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alignment.data.columns import Loaded as LoadedRows
from alignment.models import pair_states
from alignment.models.activations import response_states
from alignment.models.annotator import Annotator
from alignment.models.architecture import layer_count
from alignment.models.hybrid_reward import HybridReward
from alignment.models.kept_states import (
    LIMIT,
    KeptStates,
    StatesMeaning,
    bytes_kept,
    fitting_states,
    in_half,
    item_keys,
    text_key,
    why_none,
    write_states,
)
from alignment.models.packing import Item, Packing
from alignment.models.pair_states import whole_pairs
from alignment.runs.ranks import Ranks
from alignment.types import UserError
from tests.models.test_annotator import annotator, rendered, rows

MEANING = StatesMeaning("a model", "float32", "endpoint", 3, 32, "a template", 1000)
HALF = 2.0**-11  # the largest share of a number that float16 loses
LEAST = 2.0**-25  # or of the smallest numbers that it has, in absolute terms


def planted(dtype: torch.dtype, *scales: float) -> list:
    random = torch.Generator().manual_seed(0)
    return [
        ([text_key([number, i]) for i in range(4)], in_half(scale * torch.randn(4, 3, 32, generator=random), dtype))
        for number, scale in enumerate(scales)
    ]


def test_what_is_written_is_found_again_by_text_and_layer(tmp_path):
    parts, file = planted(torch.float32, 1.0, 1.0), tmp_path / "states.safetensors"
    assert write_states(file, lambda: parts, MEANING) == 8
    assert load_file(file)["states"].dtype == torch.float16, "any reader of safetensors reads it"
    kept = KeptStates.open(file)
    assert kept.meaning == MEANING and kept.has([text_key([1, 3])]) and not kept.has([text_key([1, 3]), text_key([9])])
    found = kept.states([text_key([1, 3]), text_key([0, 0])])
    assert torch.equal(found, torch.stack([parts[1][1][3], parts[0][1][0]]).float())
    assert torch.equal(kept.states([text_key([1, 3])], layer=2), parts[1][1][3:, 1].float())
    assert kept.states([]).shape == (0, 3, 32) and kept.states([], layer=2).shape == (0, 32)
    assert write_states(tmp_path / "none", lambda: [], MEANING) == 0 and not KeptStates.open(tmp_path / "none").rows
    before = file.read_bytes()
    write_states(file, lambda: parts, MEANING)
    assert file.read_bytes() == before


def test_float16_holds_what_fits_and_bfloat16_what_does_not(tmp_path):
    states = torch.randn(50, 3, 32, generator=torch.Generator().manual_seed(1)) * 1000
    assert ((in_half(states, torch.float32).float() - states).abs() <= HALF * states.abs() + LEAST).all()
    exact = states.bfloat16()
    assert torch.equal(in_half(exact.float(), torch.bfloat16), exact), "what a model computed in it is kept as it is"
    file = tmp_path / "states.safetensors"
    for scales, wanted in (((1.0, 1.0), torch.float16), ((1.0, 1e6), torch.bfloat16)):
        parts = planted(torch.float32, *scales)
        write_states(file, lambda parts=parts: parts, MEANING)
        assert load_file(file)["states"].dtype == wanted
        read = KeptStates.open(file).states([key for keys, _ in parts for key in keys])
        assert torch.equal(read, torch.cat([states for _, states in parts]).to(wanted).float())
        assert read.isfinite().all() and float(read.abs().max()) > 2 * scales[1], "none of a million became infinite"


@pytest.mark.parametrize(
    "keep, too_few, size, free, why",
    [
        ("auto", None, LIMIT, 2 * LIMIT, None),
        ("auto", None, 2 * LIMIT, 2 * LIMIT, None),
        ("auto", None, 2 * LIMIT, 2 * LIMIT - 1, "states take 4.29 GB, and 2 times that while they are put together"),
        ("auto", "nobody takes them", 10, 100, "nobody takes them"),
        (
            "auto",
            None,
            10**9,
            10**9,
            "states take 1.00 GB, and 2 times that while they are put together, and 1.00 GB are",
        ),
        ("none", None, 10, 100, "states.keep=none"),
        ("all", "nobody takes them", 9 * LIMIT, 99 * LIMIT, None),
    ],
)
def test_which_states_are_kept(keep, too_few, size, free, why):
    found = why_none(keep, too_few, bytes_kept(keep, size), free)
    assert found is None if why is None else found.startswith(why)


def test_all_without_room_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"^states.keep: states take 5.00 GB, .*; 1.00 GB are free; use auto or none"):
        why_none("all", None, 5 * 10**9, 10**9)


@pytest.mark.parametrize(
    "wanted, line",
    [
        ({"model": "another"}, "model=a model, and this needs model=another"),
        ({"computed_in": torch.bfloat16}, "computed_in=float32, and this needs computed_in=bfloat16"),
        ({"pooling": "mean"}, "pooling=endpoint, and this needs pooling=mean"),
        ({"prompt": "alpaca"}, "prompt=chat, and this needs prompt=alpaca"),
    ],
)
def test_states_of_something_else_are_not_used_and_a_line_says_why(wanted, line, tmp_path):
    file, said = tmp_path / "states.safetensors", []
    given = {"model": "a model", "computed_in": torch.float32, "pooling": "endpoint", "say": said.append}
    assert fitting_states(file, **given) is None and said == [], "no run without them says anything"
    write_states(file, lambda: planted(torch.float32, 1.0), MEANING)
    assert fitting_states(file, **given) is not None and said == []
    assert fitting_states(file, **(given | wanted)) is None
    assert said == [f"  states are read anew: those of read_states are of {line}"]


def test_a_file_that_holds_no_states_is_refused(tmp_path):
    file = tmp_path / "states.safetensors"
    write_states(file, lambda: planted(torch.float32, 1.0), MEANING)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(UserError, match=r"states.safetensors: it holds no kept states; run stage read_states again"):
        KeptStates.open(file)


# ---- who takes them -------------------------------------------------------------------------------------------------


def keep(reader: Annotator, items: list[Item], file) -> KeptStates:
    """The states of these items, as the stage keeps them."""
    layers = range(1, layer_count(reader.loaded.model) + 1)
    keys = [item_keys(item)[which] for which in (0, 1) for item in items]
    states = response_states(reader.loaded.model, reader.layout, items, layers, "endpoint", reader.loaded.end_ids)[0]
    write_states(file, lambda: [(keys, in_half(states, torch.float32))], MEANING)
    return KeptStates.open(file)


def test_pairs_get_the_states_that_reading_gives_and_only_others_are_read(tmp_path, monkeypatch):
    reader, part = annotator(tmp_path), LoadedRows([{"id": str(i), **row} for i, row in enumerate(rows(SIDES, 40))])
    items = whole_pairs(part, reader.loaded, 1000)
    kept = keep(reader, items[:30], tmp_path / "states.safetensors")
    given = ({"train": items}, reader.loaded, Packing(), "endpoint", 400)
    read = pair_states.pair_states(*given, tmp_path / "read", Ranks())["train"]
    seen: list[Item] = []

    def reading(backbone, layout, items, *others):
        seen.extend(items)
        return response_states(backbone, layout, items, *others)

    monkeypatch.setattr(pair_states, "response_states", reading)
    taken = pair_states.pair_states(*given, tmp_path / "taken", Ranks(), kept)["train"]
    assert sorted(map(item_keys, seen)) == sorted(map(item_keys, items[30:]))
    assert read.shape == taken.shape == (40, 2, 3, 32)
    rounding = 1e-5 * float(read.abs().max())  # of float32, in rows of other neighbours
    assert ((taken - read).abs() <= HALF * read.abs() + LEAST + rounding).all()
    assert not torch.equal(taken[:30], read[:30]), "kept in half precision"
    reward = HybridReward.fit(*read.unbind(1))
    gaps = [reward.score(states[:, 0]) - reward.score(states[:, 1]) for states in (read, taken)]
    assert torch.equal(*(one.argsort() for one in gaps)), "the same ranking"


def test_margins_are_those_of_reading_and_cut_answers_are_read(tmp_path):
    reader = annotator(tmp_path)
    induced = rendered(reader, rows(("positive", "negative")), ("positive", "negative"), "")
    direction = reader.direction("smv", 2, reader.side_states("induced", induced, [2]), seed=0)
    lengths = [len(text.ids) for pair in rendered(reader, rows(SIDES), SIDES, "") for text in pair]
    cutting = replace(reader, max_length=sorted(lengths)[len(lengths) * 3 // 4])
    pairs = rendered(cutting, rows(SIDES), SIDES, "")
    whole = [Item.of(pair) for pair in rendered(reader, rows(SIDES), SIDES, "")]
    kept = keep(reader, whole, tmp_path / "states.safetensors")
    said: list[str] = []
    taking = replace(cutting, kept=kept, ranks=Saying(said), work=tmp_path / "taken")
    read, taken = (one.margins("train", pairs, direction, seed=0) for one in (cutting, taking))
    cut = sum(any(text.truncated for text in pair) for pair in pairs)
    assert 0 < cut < 12 and said == [f"  train pairs: the states of {12 - cut} pairs are there, {cut} are read"]
    assert (read.no_end, read.truncated) == (taken.no_end, taken.truncated)
    np.testing.assert_array_equal(read.length_difference, taken.length_difference)
    sizes = np.array([float(kept.states(item_keys(item), 2).norm(dim=1).sum()) for item in whole])
    assert (abs(taken.raw - read.raw) <= (HALF + 1e-5) * sizes + 1e-5).all(), "|<e, v>| is at most |e|"
    np.testing.assert_array_equal(taken.raw.argsort(), read.raw.argsort())
    assert (abs(taken.random - read.random) <= (HALF + 1e-5) * sizes[:, None] + 1e-5).all()


class Saying(Ranks):
    """One rank, whose lines a test reads."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "said", said)

    def say(self, line: str) -> None:
        self.said.append(line)


SIDES = ("chosen", "rejected")
