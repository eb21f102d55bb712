"""Comments in prompts: from `#` to the end of the line."""

from __future__ import annotations

import re

_WHOLE_LINE = re.compile(r"(?:^|\n)#[^\n]*(?:\n|$)")
_END_OF_LINE = re.compile(r"#[^\n]*(?:\n|$)")


def strip_comments(prompt: str) -> str:
    """Return the prompt with each comment replaced by the end of its line.

    There is no way to write a literal `#` (A1111); the setting `enable_prompt_comments` turns
    comments off.
    """
    return _END_OF_LINE.sub("\n", _WHOLE_LINE.sub("\n", prompt))
