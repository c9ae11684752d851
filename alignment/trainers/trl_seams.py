"""Every name of TRL and of transformers' Trainer that our trainers rely on beyond documented use, in one place.

tests/trainers/test_trl_seams.py checks each against the installed version and says what changed when TRL moves.
"""

# class in trl or transformers -> (attribute, what we use it for)
SEAMS = {
    "RewardTrainer": (
        ("compute_loss", "overridden: takes `margin` and `real_pairs` out of the batch before the model sees it"),
        ("_prepare_dataset", "keeps tokenized rows as they are, drops pairs longer than max_length"),
        ("_set_signature_columns_if_needed", "names `margin` among the columns that reach the collator"),
        ("_metrics", "mode -> name -> values, averaged by log()"),
        ("_save_checkpoint", "extended: seals a checkpoint when everything in it is written"),
        ("loss_is_scaled_for_ga", "False: training_step divides the loss by the number of micro-batches"),
    ),
    "Trainer": (
        ("get_batch_samples", "extended: counts the real pairs of an optimiser step over micro-batches and ranks"),
        ("current_gradient_accumulation_steps", "the micro-batches of the step in progress"),
    ),
}
