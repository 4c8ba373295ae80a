"""The prompt: the argument, what is piped in, or both."""

import sys

from ..errors import PromptError


def read_prompt(argument: str | None) -> str:
    """The argument, with piped text below it. Raises `PromptError` where there is nothing, or no text."""
    parts = [argument] if argument and argument.strip() and argument != "-" else []
    if sys.stdin is not None and not sys.stdin.isatty():
        try:
            piped = sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise PromptError(f"stdin is not UTF-8 text (byte {error.start}); convert it first, with iconv for example") from None
        if piped.strip():
            parts.append(piped)
    if not parts:
        raise PromptError('the prompt is empty: say what code to write, as in: diffucode generate "Write a function ..."')
    return "\n\n".join(parts)
