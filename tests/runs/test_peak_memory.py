"""The most memory held at once: forgotten at a stage's start, found at its end, with that of processes beside."""

import mmap

from alignment.runs import peak_memory
from alignment.runs.ranks import Ranks


def test_the_peak_is_forgotten_and_found_again():
    """Of pages of their own: an array may lie in memory that this process has freed and still holds."""
    size = 2**26
    peak_memory.forget_peak()
    before = peak_memory.peak_bytes()
    with mmap.mmap(-1, size) as pages:
        for place in range(0, size, mmap.PAGESIZE):
            pages[place] = 1
        assert peak_memory.peak_bytes() - before > 0.9 * size
    assert peak_memory.peak_bytes() - before > 0.9 * size, "it stays"
    peak_memory.forget_peak()
    assert peak_memory.peak_bytes() - before < 0.5 * size


def test_processes_beside_count_until_the_next_stage():
    peak_memory.forget_peak()
    alone, gpu = peak_memory.peaks()
    peak_memory.add_beside(10**12)
    peak_memory.add_beside(10**11)  # a second search of the same stage, after the first
    assert peak_memory.peaks()[0] - alone >= 10**12 > peak_memory.peaks()[0] - alone - 10**9 and gpu == 0
    peak_memory.forget_peak()
    assert peak_memory.peaks()[0] < 10**12


def test_what_is_said():
    assert peak_memory.in_words(1_230_000_000, 0) == "1.2 GB"
    assert peak_memory.in_words(1_230_000_000, 3_400_000_000) == "1.2 GB, 3.4 GB of its GPU"
    assert Ranks().most(3, 4) == (3, 4)
