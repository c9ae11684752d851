"""Libraries that keep to themselves what this package settles: for every process that trains."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Libraries listen to environment variables, read at import: no telemetry, and no warnings about what this package
    settles itself. What is set already stays as it is."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make training many times slower when a core is shared
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", "this process sees .* GPUs")  # a run says so itself
    warnings.filterwarnings("ignore", r"`torch\.distributed", FutureWarning)
    warnings.filterwarnings("ignore", r"`is_gradient_checkpointing`", FutureWarning)  # TRL's own call of it
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that it would like to load
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
