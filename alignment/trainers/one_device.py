"""One process trains on one device, however many GPUs it sees.

Trainer would wrap the model in DataParallel and multiply the batch by the number of GPUs, and TRL would load a model in
pieces, some on each (device_map="auto"). But rows, hooks and the count of a step's pairs are made for one model a rank.
"""

import warnings
from typing import Any

from transformers import TrainingArguments

from alignment.types import UserError


def on_one_device(args: TrainingArguments, model: Any) -> None:
    """Sets the arguments so, before Trainer's and TRL's __init__ read them. model: a name, or the model."""
    if args.device.type == "mps":
        raise UserError("args", "Apple's GPUs have no float64, which rewards are summed in", "set use_cpu=True")
    if args.n_gpu > 1:
        warnings.warn(
            f"this process sees {args.n_gpu} GPUs and trains on {args.device}; launch=ddp, or accelerate launch, "
            "trains on all of them",
            stacklevel=4,
        )
        args._n_gpu = 1
    if isinstance(model, str):
        settings = args.model_init_kwargs or {}
        place = settings.get("device_map")
        if isinstance(place, str) or len(place or ()) > 1:
            raise UserError("model_init_kwargs", "device_map puts a model in several places", "leave it out")
        args.model_init_kwargs = {**settings, "device_map": place}
    elif len(places := set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise UserError("model", f"its layers are spread over {len(places)} devices", "load it without device_map")
