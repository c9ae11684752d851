"""A progress bar for a training run, in place of Trainer's own lines: what goes wrong is seen while it does."""

from collections.abc import Mapping

from tqdm import tqdm
from transformers import TrainerCallback

from alignment.runs.bars import bar

SHOWN = {"loss": "{:.3f}", "accuracy": "{:.1%}", "chosen_log_ratio": "{:+.2f}", "kl": "{:.2f}"}
CONFIDENCE = [f"confidence_q{level}" for level in (10, 50, 90)]  # shown as one


def shown(logs: Mapping[str, float]) -> dict[str, str]:
    """The figures on the last line of a terminal; of gamma its 10, 50 and 90% quantiles."""
    figures = {name: form.format(logs[name]) for name, form in SHOWN.items() if name in logs}
    if CONFIDENCE[0] in logs:
        figures["confidence"] = "/".join(f"{logs[name]:.2f}" for name in CONFIDENCE)
    return figures


class ProgressBar(TrainerCallback):
    """Shows the steps done and the figures last logged that say most, on the main process only."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        quiet = not state.is_world_process_zero
        self.bar = bar(None, self.what, state.max_steps, "step", disable=quiet, done=state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.bar.set_postfix(shown(logs or {}), refresh=False)

    def close(self) -> None:
        """Clears the line, however training ended."""
        if self.bar is not None:
            self.bar.close()
