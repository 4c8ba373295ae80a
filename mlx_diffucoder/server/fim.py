"""Prompts that a client rendered for fill in the middle, in the forms of other models: read back as the text around a hole."""

import re
from pathlib import PurePath
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
START = re.compile(r"^(?:<s>|<bos>|<\|endoftext\|>|<｜begin▁of▁sentence｜>|\[gMASK\]<sop>|<\|user\|>\n?)+")
"""What a prompt may begin with that is no text."""
FILES = re.compile(r"<\|?repo_name\|?>[^\n<]*\n?|<\|?file_sep\|?>([^\n<]*)\n?")
"""The name of a project, and what stands before its other files: their names."""
HASHES = ("", ".py", ".pyi", ".rb", ".sh", ".toml", ".yaml", ".yml", ".r", ".pl", ".jl", ".ex", ".exs", ".nix")
"""Ends of the names of files in which a comment begins with #; in others it begins with //."""


class Around(NamedTuple):
    """The texts before and after a hole."""

    prefix: str
    suffix: str


def name_line(name: str) -> str:
    """A comment with the name of a file, which the model sees before its text; empty without a name."""
    name = " ".join(name.split())
    return f"{'#' if PurePath(name).suffix in HASHES else '//'} {name}\n" if name else ""


def rendered(prompt: str) -> Around | None:
    """The text around the hole of a rendered prompt; None if it is not one.

    The text before the first token, other files for example, becomes the start of the prefix.
    """
    for before, after, middle in FORMS:
        start, cut = prompt.find(before), prompt.find(after)
        if start < 0 or cut < 0:
            continue
        end = prompt.rfind(middle)
        body = prompt if end < max(start, cut) else prompt[:end]
        context = FILES.sub(lambda found: name_line(found[1] or ""), START.sub("", prompt[: min(start, cut)]))
        if start < cut:
            return Around(context + prompt[start + len(before) : cut], body[cut + len(after) :])
        return Around(context + body[start + len(before) :], prompt[cut + len(after) : start])
    return None
