"""The embedded world's oracle as a judge: it reads the truth, so its verdicts are never wrong."""

from collections.abc import Sequence

from alignment.judges.verdicts import Verdict
from alignment.world import oracle


def judge(prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
    """One verdict per prompt and answer."""
    readings = [oracle.read(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return [Verdict(one.toxic, one.refusal, one.severity, one.helpfulness) for one in readings]
