"""The noise makes the maximum a draw from softmax; rows and positions are independent; keys decide it all."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from alignment.maths import noise
from alignment.maths.noise import gumbel, gumbel_of, row_key


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor([row_key(seed, "prompt", sample) for sample in range(count)])


def test_the_noise_is_gumbel():
    assert stats.kstest(gumbel(keys(50), 3, 400).flatten().numpy(), stats.gumbel_r.cdf).pvalue > 0.01


def test_the_maximum_is_a_draw_from_softmax():
    """20,000 draws of 8 tokens of very different probability, against the exact one."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0, 0.5, 0.5, float("-inf")], dtype=torch.float64)
    drawn = (logits + gumbel(keys(20000), 0, 8)).argmax(dim=1)
    counts = np.bincount(drawn.numpy(), minlength=8)
    assert counts[7] == 0
    assert stats.chisquare(counts[:7], 20000 * torch.softmax(logits, 0)[:7].numpy()).pvalue > 0.01


@pytest.mark.parametrize("other", ["position", "row", "token", "sample", "seed", "prompt"])
def test_neighbours_have_nothing_to_do_with_each_other(other):
    one = gumbel(keys(200), 5, 100)
    two = {
        "position": lambda: gumbel(keys(200), 6, 100),
        "row": lambda: one.roll(1, 0),
        "token": lambda: one.roll(1, 1),
        "sample": lambda: gumbel(keys(201)[1:], 5, 100),
        "seed": lambda: gumbel(keys(200, seed=1), 5, 100),
        "prompt": lambda: gumbel(torch.tensor([row_key(0, "prompt 2", i) for i in range(200)]), 5, 100),
    }[other]()
    assert abs(np.corrcoef(one.flatten(), two.flatten())[0, 1]) < 4 / np.sqrt(one.numel())


def test_a_row_is_the_same_in_any_company_and_vocabulary():
    whole = gumbel(keys(9), 2, 50)
    for row in range(9):
        assert torch.equal(gumbel(keys(9)[[row]], 2, 50)[0], whole[row])
    assert torch.equal(gumbel(keys(9), 2, 30), whole[:, :30])


def test_some_tokens_have_the_noise_they_have_among_all():
    whole, tokens = gumbel(keys(9), 2, 50), torch.randint(50, (9, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gumbel_of(tokens, keys(9), 2), whole.gather(1, tokens))


def test_the_bits_are_these_and_stay_so():
    """A slow version in Python's integers: samples of a released version must come out again."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    names = [(7, "train-000003", 2), (0, "ü", 0), (1, "", 31)]
    found = [row_key(*name) for name in names]
    assert found[0] == 8185738870148475535 and min(found) < 0
    for key, (position, token) in itertools.product(found, ((0, 0), (5, 17), (300, 150000))):
        mixed = mix(mix(key + (position + 1) * golden & mask) + (token + 1) * golden & mask)
        uniform = ((mixed >> 12) + 0.5) / 2**52
        expected = -np.log(-np.log(uniform))
        assert gumbel(torch.tensor([key]), position, token + 1)[0, token].item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("bits", [0, -1])
def test_the_largest_and_smallest_hash_give_finite_noise(bits, monkeypatch):
    monkeypatch.setattr(noise, "_mix", lambda x: torch.full_like(x, bits))
    assert gumbel(keys(1), 0, 1).isfinite().all()
