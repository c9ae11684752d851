"""Stage train_dpo: DPO, with one confidence in the label of every pair, or by an objective that others hold against
wrong labels (trainers/objectives.py)."""

from alignment.inputs.job import Job
from alignment.policies.search import train_systems
from alignment.runs.manifest import Rows


def run(job: Job) -> Rows:
    return train_systems("train_dpo", job)
