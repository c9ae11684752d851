"""A progress bar for a training run, in place of Trainer's own lines."""

import sys

from tqdm import tqdm
from transformers import TrainerCallback


class ProgressBar(TrainerCallback):
    """Shows the steps done and the last logged loss and accuracy, on the main process only."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        every = 0.1 if sys.stderr.isatty() else 30
        self.bar = tqdm(
            desc=self.what, total=state.max_steps, initial=state.global_step, unit="step", leave=False,
            disable=not state.is_world_process_zero, mininterval=every,
        )  # fmt: skip

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        forms = {"loss": "{:.3f}", "accuracy": "{:.1%}"}
        shown = {name: form.format(logs[name]) for name, form in forms.items() if name in (logs or {})}
        self.bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Clears the line, however training ended."""
        if self.bar is not None:
            self.bar.close()
