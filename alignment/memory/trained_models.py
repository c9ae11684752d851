"""How many models a stage trains: one for each kind of margin and seed, or for each point of a grid."""

from omegaconf import DictConfig

from alignment.maths.margins import kinds_by_seed
from alignment.policies.systems import grid, trained_by
from alignment.reward_models.variants import Variant, all_teachers
from alignment.stages import STAGES


def trainings(stage: str, cfg: DictConfig) -> int:
    """How many models the stage trains."""
    if STAGES[stage].trains.settings == "trainer":
        settings = cfg.reward_model
        kinds = kinds_by_seed(settings.margins, settings.seeds, settings.control_seeds)
        variants = [Variant(margins, seed) for margins, seed in kinds]
        return len({*variants, *all_teachers(variants, settings.ensemble)})
    policy = cfg.policy
    count = 0
    for system in trained_by(stage, list(policy.systems)):
        points = len(grid(system, list(policy.beta), list(policy.learning_rate), 0))
        count += (points - 1) * policy.grid_seeds + len(policy.seeds)
    return max(1, count)
