"""Everything of TRL, transformers and accelerate that our trainers rely on beyond its documented use, in one place.

tests/trainers/test_trl_seams.py finds what is used and not listed here; test_trl_contracts.py has a test of the meaning
of every entry, which says what changed when TRL moves.
"""

# a class or module -> name -> what we use it for
SEAMS = {
    "trl.DPOTrainer": {
        "__init__": "ref_model, data_collator and compute_metrics are keywords: ours looks at them before TRL does",
        "compute_loss": "overridden: the loss of confidence DPO; takes our columns out of the batch",
        "compute_ref_log_probs": "overridden: (chosen, rejected) log-probabilities of the reference, without gradient; "
        "with LoRA those of the model it is given without its adapters",
        "training_step": "extended: after the backward pass of a step's last micro-batch the reward is re-fitted",
        "evaluate": "extended: refuses to begin without a reward",
        "log": "extended: averages _metrics of the mode and forgets them; ours are added before",
        "_metrics": "mode -> name -> values, averaged by log()",
        "_prepare_dataset": "extended: rows that hold token ids pass as they are; called before Trainer.__init__",
        "_set_signature_columns_if_needed": "extended: names `confidence` among the columns that reach the collator",
        "_signature_columns": "the list that does it; None until it is first needed",
        "_precompute_ref_logps": "overridden: called by __init__ and evaluate for a data set, its name, a batch size; "
        "what it returns takes the data set's place",
        "_precompute_model_hash": "the reference's hash, before its weights are split",
        "_precompute_engine": "the DeepSpeed engine of reference passes when the policy is its own reference; None yet",
        "precompute_ref_logps": "are reference log-probabilities columns of the batch?",
        "_tokenizer": "the tokenizer, also where a processor was given",
        "_is_vision_dataset": "does the data hold images?",
        "aux_loss_enabled": "would TRL's loss have a term for a mixture's routers?",
        "ref_model": "the policy as it was loaded, from TRL or from us; None with LoRA or precomputed references",
        "beta": "the loss's beta",
        "loss_is_scaled_for_ga": "False: training_step divides the loss by the number of micro-batches",
    },
    "trl.RewardTrainer": {
        "compute_loss": "overridden: chosen texts, then rejected ones, and their margins",
        "_prepare_dataset": "keeps tokenized rows as they are, drops pairs longer than max_length",
        "_set_signature_columns_if_needed": "names `margin` among the columns that reach the collator",
        "log": "extended: averages _metrics of the mode and forgets them; ours are added before",
        "_metrics": "mode -> name -> values, averaged by log()",
        "loss_is_scaled_for_ga": "False: training_step divides the loss by the number of micro-batches",
    },
    "trl.SFTTrainer": {
        "_prepare_dataset": "keeps rows with `input_ids` and `labels` as they are",
        "compute_loss": "overridden: the mean over the answer tokens of the step, which num_items_in_batch counts",
    },
    "trl.models.utils": {
        "disable_gradient_checkpointing": "around reference passes, as TRL's own",
    },
    "trl.trainer.utils": {
        "use_adapter": "around them, with LoRA: the policy without its adapters, or with those called `ref`",
        "maybe_gather_lm_head_ctx": "the head's weight, whole for a moment where ZeRO-3 splits it",
    },
    "trl.kernels": {
        "ChunkedLogProbFunction": "log-probabilities of targets in tiles, where ours doesn't go",
    },
    "peft.tuners.lora": {
        "LoraLayer": "lora_dropout: the dropout of each adapter, which TRL's disable_dropout sets to 0 with all others",
    },
    "transformers.masking_utils": {
        "_preprocess_mask_arguments": "a mask of four dimensions is taken as it is",
    },
    "trl.models": {
        "prepare_deepspeed": "(model, accelerator): an engine for reference passes",
    },
    "transformers.Trainer": {
        "get_batch_samples": "extended: counts the real pairs of an optimiser step over micro-batches and ranks; what "
        "it returns as their number reaches compute_loss as num_items_in_batch",
        "_get_train_sampler": "extended: the order of an epoch's rows, a RandomSampler or another; None where "
        "rows have no length",
        "_prepare_inputs": "a batch on the rank's device",
        "evaluation_loop": "extended: begins to count batches; repeats each rank's loss as often as a batch may have "
        "pairs, and cuts off what filled up the last one",
        "prediction_step": "overridden: an evaluation's loss over a batch's real pairs, without outputs",
        "current_gradient_accumulation_steps": "the micro-batches of the step in progress",
        "deepspeed": "the engine, held until it is let go of here",
        "optimizer": "likewise, with a state for every weight",
        "lr_scheduler": "which holds the optimizer",
        "callback_handler": "which holds all of these, and the model; its list `callbacks`, in whose order they are "
        "called: ours that seals a checkpoint stands first",
        "model_wrapped": "the model as DDP, DeepSpeed or FSDP hold it, when on_train_begin is called",
        "compute_loss_context_manager": "what training_step computes the loss in; we read states and check in the same",
        "is_deepspeed_enabled": "is DeepSpeed to hold the model?",
        "is_fsdp_enabled": "is FSDP to?",
        "_load_optimizer_and_scheduler": "extended: on resuming, the live reward comes back here, before "
        "on_train_begin",
        "_load_best_model": "extended: and here, with load_best_model_at_end, when there is a best checkpoint",
        "save_model": "leaves training_args.bin, a pickle, beside the weights; we delete it",
    },
    "transformers.TrainingArguments": {
        "deepspeed_plugin": "accelerate's, with its zero_stage; None without DeepSpeed",
        "_n_gpu": "how many GPUs one process sees; above 1, Trainer wraps the model in DataParallel, which TRL refuses",
    },
    "transformers.PreTrainedModel": {
        "forward": "TRL gives it a fused head: model(..., labels=..., fused_lm_head=True).log_probs, per token and 0 "
        "where labels are -100",
    },
    "transformers.PreTrainedConfig": {
        "_name_or_path": "the folder or hub name that a model came from",
        "_attn_implementation": "the kernel that computes attention",
    },
    "transformers.integrations.deepspeed": {
        "unset_hf_deepspeed_config": "between two trainers of one process: from_pretrained splits no model any more",
    },
    "accelerate.Accelerator": {
        "sync_gradients": "True in the last micro-batch of a step only, already within training_step",
    },
    "accelerate.data_loader": {
        "SeedableRandomSampler": "what accelerate makes of a RandomSampler: an order by seed and epoch, the same "
        "on all ranks; set_epoch reaches ours that is around it",
        "prepare_data_loader": "deals batches to ranks in turn, the last ones filled up with rows already seen, so "
        "that all ranks have equally many of equal size",
    },
    "accelerate.state.AcceleratorState": {
        "_reset_state": "between two trainers of one process: the next one reads its DeepSpeed configuration anew",
    },
}

# What Trainer's own documentation lets a subclass use.
DOCUMENTED = (
    "accelerator", "add_callback", "args", "data_collator", "eval_dataset", "model", "processing_class",
    "remove_callback", "state", "train", "train_dataset",
)  # fmt: skip
