"""Stage train_cdpo: confidence DPO, which learns from each pair as far as a hybrid reward is sure of its label.

That confidence, gamma, comes from the policy's own activations, and the reward is re-fitted on every batch.
"""

from alignment.inputs.job import Job
from alignment.policies.search import train_systems
from alignment.runs.manifest import Rows


def run(job: Job) -> Rows:
    return train_systems("train_cdpo", job)
