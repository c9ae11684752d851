"""Stage train_sft: the baseline, fine-tuned on the chosen answers."""

from alignment.inputs.job import Job
from alignment.policies.search import train_systems
from alignment.runs.manifest import Rows


def run(job: Job) -> Rows:
    return train_systems("train_sft", job)
