"""Sets in RewardBench's format: a prompt, a chosen and a rejected answer, and the subset each pair belongs to.

Lambert et al. 2024 (arXiv:2403.13787), data set allenai/reward-bench, split `filtered`: 2,985 pairs in 23 subsets.
"""

from collections.abc import Mapping
from pathlib import Path

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded, answer, messages
from alignment.data.places import files_of
from alignment.data.prompt_sets import rows_of
from alignment.data.raw_rows import content_id, load, optional_text

# Which subsets make up which section, as in rewardbench/constants.py of github.com/allenai/reward-bench.
SECTIONS = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": (
        "mt-bench-hard",
        "llmbar-natural",
        "llmbar-adver-neighbor",
        "llmbar-adver-GPTInst",
        "llmbar-adver-GPTOut",
        "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous",
        "refusals-offensive",
        "xstest-should-refuse",
        "xstest-should-respond",
        "donotanswer",
    ),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}
# The data card: the 447 pairs of mathematics weigh as much as the 984 of code.
_WEIGHT = {"math-prm": 984 / 447}


def pairs(folder: str) -> Loaded:
    """RewardBench itself, from a local copy below `folder`, or from the hub."""
    return pairs_in(files_of("rewardbench", folder))


def file_pairs(path: str) -> Loaded:
    """Another set in RewardBench's format: prompt, chosen, rejected, and subset if there are several."""
    return pairs_in([Path(path)])


def section_scores(accuracy: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """The accuracy by section, from that by subset: the mean over a section's pairs, with mathematics weighted up.

    counts: pairs by subset. A section without pairs is left out, and so are subsets of no section.
    """
    scores = {}
    for section, subsets in SECTIONS.items():
        weights = {subset: counts[subset] * _WEIGHT.get(subset, 1) for subset in subsets if counts.get(subset)}
        if weights:
            total = sum(weight * accuracy[subset] for subset, weight in weights.items())
            scores[section] = total / sum(weights.values())
    return scores


def overall_score(sections: Mapping[str, float]) -> float | None:
    """The mean of the four sections, without the prior sets that some leaderboards add; None if one is missing."""
    return sum(sections.values()) / len(SECTIONS) if set(sections) == set(SECTIONS) else None


def pairs_in(files: list[Path]) -> Loaded:
    return load("rewardbench", rows_of("rewardbench", files), _pair, repeats=True)


def _pair(row: dict, file: Path) -> dict:
    prompt = messages(row.get("prompt"), "prompt", "user")
    chosen, rejected = (answer(row.get(side), side, prompt) for side in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    subset = optional_text(row, "subset")
    return {
        "id": content_id("rewardbench", subset, prompt, chosen, rejected),
        "source": "rewardbench",
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "category": subset,
    }
