"""What the policy's samples are ranked by: the hybrid reward, a reward model, the world's oracle, or their length."""

from pathlib import Path

from alignment.inputs.job import Job
from alignment.models.devices import device
from alignment.models.hybrid_reward import HybridReward
from alignment.models.load import Loaded, load_reward_model
from alignment.models.packing import Packing
from alignment.sampling.candidates import (
    Question,
    Scored,
    hybrid_scorer,
    judge_scores,
    length_scores,
    reward_model_scorer,
    score_answers,
)
from alignment.sampling.generate import Sample
from alignment.types import Picker


def score_samples(
    scorer: Picker, job: Job, loaded: Loaded, questions: list[Question], samples: list[list[Sample]], folder: Path
) -> Scored:
    """The scores of every question's samples. folder: finished batches are kept there.

    A reward model takes the place of the policy in `loaded`: two models needn't fit into memory.
    """
    cfg = job.cfg
    if scorer == "judge":
        return Scored(judge_scores(questions, samples), [])
    if scorer in ("shortest", "longest"):
        return Scored(length_scores(samples, 1 if scorer == "longest" else -1), [])
    if scorer == "hybrid":
        score = hybrid_scorer(loaded, HybridReward.load(job.run.hybrid_reward))
    else:
        path = job.run.reward_model(cfg.build_pairs.reward_model, cfg.reward_model.seeds[0])
        loaded.model = load_reward_model(path, device())
        score = reward_model_scorer(loaded)
    packing, budget = Packing(**cfg.packing), cfg.sampling.batch_tokens
    return score_answers(score, loaded, questions, samples, packing, budget, folder, job.ranks)
