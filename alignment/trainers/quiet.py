"""Switches off what libraries report about things that this package settles: for every process that trains."""

import logging
import os
import warnings


def quiet_imports() -> None:
    """No warning of a kernel for 4 bits on a CPU, which is missed at import by everyone who trains without it."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """No telemetry, and no warnings about what this package settles itself; called before the libraries are imported.

    An environment variable that is set already stays as it is.
    """
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
    quiet_imports()
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
