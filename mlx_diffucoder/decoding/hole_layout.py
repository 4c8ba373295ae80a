"""How a text with holes is arranged on its canvas."""

from typing import NamedTuple


class HoleLayout(NamedTuple):
    """How a text with holes is arranged on its canvas.

    Attributes:
        prompt: tokens of the instruction before the text.
        leads: for each hole, the white space its first token starts with, which belongs to the text before the hole.
        tails: for each hole, the line ends its last token stops with, which belong to the text after it.
    """

    prompt: int
    leads: list[str]
    tails: list[str]


def unwrapped(text: str, lead: str, tail: str) -> str:
    """A hole's text without the white space `lead` that its tokens start with and the line ends `tail` they stop with."""
    text = text.replace("\r\n", "\n").removeprefix(lead)
    for _ in tail:
        text = text.removesuffix("\n")
    return text
