"""Recipes one after the other in the same CPU ranks, in bfloat16 as on GPUs: transformers would ask for a GPU.

    accelerate launch ... tests/believing_in_bfloat16.py '[["+recipe=legend_rm", ...], ["+recipe=cdpo", ...]]'

Processes take longer to start than these models to train.
"""

import json
import sys

from transformers import training_args

from alignment.run import run_recipe
from alignment.settings.compose import compose_config
from alignment.trainers.quiet import quiet_libraries

training_args.is_torch_bf16_gpu_available = lambda: True

if __name__ == "__main__":
    quiet_libraries()
    for overrides in json.loads(sys.argv[1]):
        run_recipe(compose_config(overrides))
