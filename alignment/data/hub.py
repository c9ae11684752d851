"""Whether the hub can be reached: found out before anything is asked of it, since its client would wait for ever."""

from functools import cache
from threading import Thread

SECONDS = 4.0


def unreachable() -> str | None:
    """Why the hub can't be reached, in words; None if it can, or isn't to be asked (HF_HUB_OFFLINE).

    If it can't, this process asks the cache alone from then on: transformers would wait for every file it looks for.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None
    why = _asked(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = why is not None
    return why


@cache
def _asked(endpoint: str) -> str | None:
    from huggingface_hub import get_session

    failures: list[Exception] = []

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=SECONDS)
        except Exception as error:  # of whatever HTTP library the hub's client uses
            failures.append(error)

    asking = Thread(target=ask, daemon=True)  # since no timeout bounds the look-up of a name
    asking.start()
    asking.join(SECONDS)
    if asking.is_alive() or "Timeout" in "".join(type(error).__name__ for error in failures):
        return f"the hub can't be reached: {endpoint} gives no answer within {SECONDS:g} s"
    return f"the hub can't be reached at {endpoint}" if failures else None
