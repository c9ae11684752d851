"""The few types every layer shares."""

from typing import Literal

Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": text}, as chat templates take it
Margins = Literal["none", "legend", "constant", "shuffled"]  # what reward models are trained with
Pooling = Literal["endpoint", "last_text", "mean"]


class UserError(Exception):
    """Something the user can mend: one line that names the thing, what is wrong and what would be right."""

    exit_code = 2

    def __init__(self, thing: str, problem: str, remedy: str) -> None:
        super().__init__(f"{thing}: {problem}; {remedy}")
        self._parts = (thing, problem, remedy)

    @property
    def problem(self) -> str:
        """What of, and what is wrong: the line without the remedy."""
        return f"{self._parts[0]}: {self._parts[1]}"

    def __reduce__(self) -> tuple:
        return type(self), self._parts  # it travels from the main process to the others


class StageFailed(UserError):
    """A stage came to a result that must not be published."""

    exit_code = 1


class GatesMissed(Exception):
    """Everything was done and published, and is not good enough: a line for every threshold that was missed."""

    exit_code = 3


class Stopped(Exception):
    """Asked to stop, and everything is saved: the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
