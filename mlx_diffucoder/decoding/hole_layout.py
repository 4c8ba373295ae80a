"""How a text with holes lies on its canvas."""

from typing import NamedTuple


class HoleLayout(NamedTuple):
    """How a text with holes lies on its canvas.

    Attributes:
        prompt: how many tokens stand before it, those of an instruction.
        leads, tails: for each hole, the blank that its tokens start with and the line ends that they stop with,
            which are the text's own (`excerpt`).
    """

    prompt: int
    leads: list[str]
    tails: list[str]


def unwrapped(text: str, lead: str, tail: str) -> str:
    """A hole's text without the blank that its tokens start with, and the line ends that they stop with."""
    text = text.replace("\r\n", "\n").removeprefix(lead)
    for _ in tail:
        text = text.removesuffix("\n")
    return text
