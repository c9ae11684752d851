"""The stages, in pipeline order: what each is made from. `run.py` runs them; each lives in the module of its name.

A stage module has one public function, run(cfg, run, out, ranks): read artefacts, compute, write files into `out`. It
returns how many rows it read, wrote and quarantined. Publishing, skipping and timing are the runner's.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """config: the keys that shape the result (a group stands for all its keys); reads: stages whose files it needs.

    inputs: outside things whose content shapes the result: the model, the data, a contrastive set or its questions.
    """

    does: str
    config: tuple[str, ...]
    reads: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


STAGES = {
    "induce": Stage(
        "answers to contrastive questions, as the direction needs them",
        config=("model", "data.name", "data.seed", "annotator.contrast", "annotator.prompt", "annotator.batch_tokens"),
        inputs=("model", "questions"),
    ),
    "annotate": Stage(
        "direction, margins of all pairs, and how good they are",
        config=("seed", "model", "data", "annotator"),
        reads=("induce",),
        inputs=("model", "data"),
    ),
    "train_rm": Stage(
        "reward models with and without margins",
        config=("seed", "model", "data", "reward_model", "trainer", "lora"),
        reads=("annotate",),
        inputs=("model", "data"),
    ),
    "report": Stage("tables and figures", config=("recipe",), reads=("induce", "annotate", "train_rm")),
}
