"""The environment variables of the tests: what the user's say of us and of the libraries must not change one.

In a script that tests start, as one of several ranks say, they stay as the launcher made them.
"""

import gc
import os
import sys

FOREIGN = (
    "ACCELERATE_", "DEEPSPEED_", "DS_", "GLOO_", "GROUP_", "HF_", "HUGGING", "HYDRA_", "LOCAL_", "MASTER_", "MKL_",
    "NCCL_", "OMP_", "PET_", "REPALIGN_", "ROLE_", "SLURM", "TENSORBOARD_", "TORCHELASTIC_", "TRACKIO_",
    "TRANSFORMERS_", "WANDB_",
)  # fmt: skip
OURS = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",  # the models are tiny, and threads that wait for each other on a busy machine are slow
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # bitsandbytes compiles kernels as it is imported: a second of every process, for none
    "TRANSFORMERS_VERBOSITY": "error",
    "WANDB_MODE": "offline",
}

if "_pytest.config" in sys.modules:
    for name in [one for one in os.environ if one.startswith(FOREIGN) or one in ("RANK", "WORLD_SIZE")]:
        del os.environ[name]
    os.environ |= OURS
    gc.disable()  # until all tests are collected, in conftest.py: what is imported stays
