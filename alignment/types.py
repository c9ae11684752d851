"""The few types every layer shares."""

from typing import Literal

Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": text}, as chat templates take it
Pooling = Literal["endpoint", "last_text", "mean"]


class UserError(Exception):
    """Something the user can mend: one line that names the thing, what is wrong and what would be right."""

    exit_code = 2

    def __init__(self, thing: str, problem: str, remedy: str) -> None:
        super().__init__(f"{thing}: {problem}; {remedy}")


class StageFailed(UserError):
    """A stage came to a result that must not be published."""

    exit_code = 1
