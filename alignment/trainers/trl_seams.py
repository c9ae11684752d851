"""Every name of TRL and of transformers' Trainer that our trainers rely on beyond documented use, in one place.

tests/trainers/test_trl_seams.py checks each against the installed version and says what changed when TRL moves.
"""

# class in trl, trl.trainer.dpo_trainer or transformers -> (name, what we use it for)
SEAMS = {
    "RewardTrainer": (
        ("compute_loss", "overridden: takes `margin` and `real_pairs` out of the batch before the model sees it"),
        ("_prepare_dataset", "keeps tokenized rows as they are, drops pairs longer than max_length"),
        ("_set_signature_columns_if_needed", "names `margin` among the columns that reach the collator"),
        ("_metrics", "mode -> name -> values, averaged by log()"),
        ("_save_checkpoint", "extended: seals a checkpoint when everything in it is written"),
        ("loss_is_scaled_for_ga", "False: training_step divides the loss by the number of micro-batches"),
    ),
    "SFTTrainer": (
        ("_save_checkpoint", "extended: as above"),
        ("_prepare_dataset", "keeps rows with `input_ids` and `labels` as they are"),
    ),
    "DPOTrainer": (
        ("compute_loss", "overridden: the loss of confidence DPO; takes our columns out of the batch"),
        ("compute_ref_log_probs", "extended: (chosen, rejected) log-probabilities under the model given, no gradient"),
        ("training_step", "extended: after the backward pass of a step's last micro-batch the reward is re-fitted"),
        ("evaluate", "extended: refuses to begin without a reward"),
        ("log", "extended: averages _metrics of the mode and forgets them; ours are added before"),
        ("_metrics", "mode -> name -> values, averaged by log()"),
        ("_prepare_dataset", "extended: rows that hold token ids pass as they are"),
        ("_set_signature_columns_if_needed", "extended: names `confidence` among the columns that reach the collator"),
        ("_signature_columns", "the list that does it"),
        ("_precompute_ref_logps", "overridden: called by __init__ and evaluate for a data set, its name, a batch size"),
        ("_precompute_model_hash", "the reference's hash, before its weights are split"),
        ("_precompute_engine", "the DeepSpeed engine of reference passes when the policy is its own reference"),
        ("precompute_ref_logps", "are reference log-probabilities columns of the batch?"),
        ("_tokenizer", "the tokenizer, also where a processor was given"),
        ("_is_vision_dataset", "does the data hold images?"),
        ("aux_loss_enabled", "would TRL's loss have a term for a mixture's routers?"),
        ("ref_model", "a copy that TRL loads from the policy's folder; None with LoRA or precomputed references"),
        ("beta", "the loss's beta"),
        ("loss_is_scaled_for_ga", "False: training_step divides the loss by the number of micro-batches"),
        ("_save_checkpoint", "extended: keeps the live reward beside it, then seals it"),
        ("_load_optimizer_and_scheduler", "extended: on resuming, the live reward comes back here"),
        ("_load_best_model", "extended: and here, with load_best_model_at_end"),
    ),
    "DataCollatorForPreference": (
        ("torch_call", "extended: chosen rows first, padded on the right; adds `confidence` and `cut`"),
        ("max_length", "where answers are cut off"),
    ),
    "Trainer": (
        ("get_batch_samples", "extended: counts the real pairs of an optimiser step over micro-batches and ranks"),
        ("current_gradient_accumulation_steps", "the micro-batches of the step in progress"),
        ("model_wrapped", "the model as DDP, DeepSpeed or FSDP hold it, when on_train_begin is called"),
        ("compute_loss_context_manager", "the autocast that the loss is computed in"),
    ),
}
# Arguments and functions: the forward of TRL's fused head `model(..., labels=..., fused_lm_head=True).log_probs`, per
# token and 0 where labels are -100; trl.models.prepare_deepspeed(model, accelerator); accelerate's
# AcceleratorState._reset_state() and transformers' unset_hf_deepspeed_config(), between two trainers of one process;
# config._name_or_path and _commit_hash, the folder or hub revision that a model came from, and
# config._attn_implementation, the kernel that computes attention.
PRIVATE_ELSEWHERE = ("_reset_state", "_name_or_path", "_attn_implementation")
