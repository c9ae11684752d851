"""Runs chat templates, and nothing else does: the same text on every day, with thoughts off or on."""

from datetime import datetime

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from alignment.data.cells import BadRow
from alignment.types import Message

# Some templates write the date. They are told the same one every day, or no run could be repeated; they ask for it
# either by this variable or by strftime_now.
DAY = datetime(2026, 1, 1)
TODAY = {"date_string": f"{DAY:%d %b %Y}"}
_CODES = [*(f"%-{code}" for code in "dmHIMSjy"), *(f"%{code}" for code in "YymdBbhAaHIMSpjeDFTRxXcUWwuVGCZz")]
_FORMATS = "".join(f"|replace('{code}', '{DAY.strftime(code).strip()}')" for code in _CODES)
STOPPED_CLOCK = f"{{% macro strftime_now(format) %}}{{{{ format{_FORMATS} }}}}{{% endmacro %}}{{{{ '' }}}}"


def write(tokenizer: PreTrainedTokenizerBase, messages: list[Message], waiting: bool, thinking: bool = False) -> str:
    """The text of a conversation. waiting: up to where an answer begins. thinking: may that begin with thoughts?"""
    options = {"add_generation_prompt": waiting, "enable_thinking": thinking, "thinking": thinking, **TODAY}
    template = tokenizer.get_chat_template()
    options["chat_template"] = STOPPED_CLOCK + template if "strftime_now" in template else template
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:  # no system message, turns that don't alternate
        raise BadRow(f"the chat template refuses it: {error}") from error
