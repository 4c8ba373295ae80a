"""Prompts that a client rendered for fill in the middle, in the forms of other models: read back as the text around a hole."""

import re
from typing import NamedTuple

FORMS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("<PRE> ", " <SUF>", " <MID>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Codestral, which has no middle and the suffix first
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
"""The tokens before the prefix, the suffix and the middle."""
FILES = re.compile(r"<\|repo_name\|>[^\n]*\n?|<\|file_sep\|>[^\n]*\n?|<file_sep>[^\n]*\n?")
"""What stands before other files of the same project."""


class Around(NamedTuple):
    """The texts before and after a hole."""

    prefix: str
    suffix: str


def rendered(prompt: str) -> Around | None:
    """The text around the hole of a rendered prompt; None if it is not one.

    The text before the first token, other files for example, becomes the start of the prefix.
    """
    for before, after, middle in FORMS:
        start, cut = prompt.find(before), prompt.find(after)
        if start < 0 or cut < 0:
            continue
        body = prompt.rstrip()
        body = (
            body.removesuffix(middle.strip()).removesuffix(" " * middle.startswith(" "))
            if body.endswith(middle.strip())
            else prompt
        )
        context = FILES.sub("", prompt[: min(start, cut)])
        if start < cut:
            return Around(context + prompt[start + len(before) : cut], body[cut + len(after) :])
        return Around(context + body[start + len(before) :], prompt[cut + len(after) : start])
    return None
