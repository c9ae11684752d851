"""A progress bar for a training run, in place of Trainer's own lines."""

from tqdm import tqdm
from transformers import TrainerCallback

from alignment.runs.bars import bar


class ProgressBar(TrainerCallback):
    """Shows the steps done and the last logged loss and accuracy, on the main process only."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        quiet = not state.is_world_process_zero
        self.bar = bar(None, self.what, state.max_steps, "step", disable=quiet, done=state.global_step)

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
