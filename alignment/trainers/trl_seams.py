"""Everything of TRL, transformers and accelerate that our trainers rely on beyond its documented use, in one place.

tests/trainers/test_trl_seams.py finds what is used and not listed here. Every entry has a test of its meaning, most of
them in test_trl_contracts.py, which says what has changed when TRL moves.
"""

# a class or module -> name -> what we use it for
SEAMS = {
    "trl.DPOTrainer": {
        "__init__": "ref_model, data_collator and compute_metrics are keywords: ours looks at them before TRL does",
        "compute_loss": "overridden: the loss of confidence DPO; takes our columns out of the batch",
        "compute_ref_log_probs": "overridden: (chosen, rejected) log-probabilities; with LoRA those without adapters",
        "training_step": "extended: after the backward pass of a step's last micro-batch the reward is re-fitted",
        "evaluate": "extended: refuses to begin without a reward",
        "log": "extended: averages _metrics of the mode and forgets them; ours are added before",
        "_metrics": "mode -> name -> values, averaged by log()",
        "_prepare_dataset": "extended: rows that hold token ids pass as they are; called before Trainer.__init__",
        "_set_signature_columns_if_needed": "extended: names `confidence` among the columns that reach the collator",
        "_signature_columns": "the list that does it; None until it is first needed",
        "_precompute_ref_logps": "overridden: (data set, name, batch size) -> data set; __init__ and evaluate call it",
        "_precompute_model_hash": "the reference's hash, before its weights are split",
        "_precompute_engine": "the DeepSpeed engine for the policy as its own reference; None until it is made",
        "precompute_ref_logps": "are reference log-probabilities columns of the batch?",
        "_tokenizer": "the tokenizer, also where a processor was given",
        "_is_vision_dataset": "does the data hold images?",
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
        "LoraLayer": "lora_dropout: the dropout of each adapter, which TRL's disable_dropout sets to 0, too",
    },
    "transformers.masking_utils": {
        "_preprocess_mask_arguments": "a mask of four dimensions is taken as it is",
    },
    "trl.models": {
        "prepare_deepspeed": "(model, accelerator): an engine for reference passes",
    },
    "transformers.Trainer": {
        "get_batch_samples": "extended: counts a step's real pairs; compute_loss gets them as num_items_in_batch",
        "_get_train_sampler": "extended: the order of an epoch's rows; None where the data has no length",
        "_prepare_inputs": "a batch on the rank's device",
        "evaluation_loop": "extended: repeats a batch's loss as often as it may have pairs; filler is cut off the last",
        "prediction_step": "overridden: an evaluation's loss over a batch's real pairs, without outputs",
        "current_gradient_accumulation_steps": "the micro-batches of the step in progress",
        "callback_handler": "its list `callbacks`, called in its order: ours that seals a checkpoint is the first",
        "model_wrapped": "the model as DDP, DeepSpeed or FSDP hold it, when on_train_begin is called",
        "compute_loss_context_manager": "what training_step computes the loss in; we read states and check in the same",
        "is_deepspeed_enabled": "is DeepSpeed to hold the model?",
        "is_fsdp_enabled": "is FSDP to hold the model?",
        "_load_optimizer_and_scheduler": "extended: on resuming, the reward is loaded here, before on_train_begin",
        "_load_best_model": "extended: and here, of the best checkpoint, with load_best_model_at_end",
        "save_model": "leaves training_args.bin, a pickle, beside the weights; we delete it",
    },
    "transformers.TrainingArguments": {
        "deepspeed_plugin": "accelerate's, with its zero_stage; None without DeepSpeed",
        "_n_gpu": "how many GPUs one process sees; above 1, Trainer wraps the model in DataParallel, which TRL refuses",
    },
    "transformers.PreTrainedModel": {
        "forward": "with TRL's head: model(..., labels=, fused_lm_head=True).log_probs, 0 where labels are -100",
    },
    "transformers.modeling_layers": {
        "GradientCheckpointingLayer": "checkpoints what it computes while its own `training` is True",
    },
    "transformers.PreTrainedConfig": {
        "_name_or_path": "the folder or hub name that a model came from",
        "_attn_implementation": "the kernel that computes attention",
    },
    "transformers.integrations.deepspeed": {
        "is_deepspeed_zero3_enabled": "are weights split, or about to be?",
        "unset_hf_deepspeed_config": "between two trainers of one process: from_pretrained splits no model any more",
    },
    "accelerate.Accelerator": {
        "sync_gradients": "True in the last micro-batch of a step only, already within training_step",
    },
    "accelerate.data_loader": {
        "SeedableRandomSampler": "an order by seed and epoch, of a RandomSampler; set_epoch reaches ours around it",
        "prepare_data_loader": "deals batches to ranks in turn, equally many of equal size: with filler in the last",
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
