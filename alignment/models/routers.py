"""Mixtures of experts: a loss of their own kept their routers balanced, and no training here has a term for it.

Without it routers train on what is learned alone, and may come to send all tokens to a few experts. Nobody trains a
mixture that way without having said so.
"""

from transformers import PreTrainedConfig

from alignment.types import UserError


def router_coefficient(config: PreTrainedConfig) -> float:
    """How much the routers' loss counts, as the configuration says; 0 where a model has no such loss."""
    config = config.get_text_config()
    return (
        float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0) if hasattr(config, "output_router_logits") else 0.0
    )


def require_told(config: PreTrainedConfig, without_router_loss: bool, key: str) -> str | None:
    """UserError unless the setting `key` says what is to be done; returns a line that says what is, if anything."""
    coefficient = router_coefficient(config)
    if coefficient and not without_router_loss:
        problem = f"{config.model_type} has a loss that keeps its routers balanced, which is left out here"
        raise UserError(
            key, problem, "set it to true to train without, or choose a model that is no mixture of experts"
        )
    if without_router_loss and not coefficient:
        raise UserError(key, f"{config.model_type} has no loss for routers", "leave it out")
    return f"  experts: trained without the routers' loss (its weight was {coefficient:g})" if coefficient else None
