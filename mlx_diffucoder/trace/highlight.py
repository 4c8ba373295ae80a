"""Syntax highlighting of a text that grows: code gets the styles of its tokens, prose stays plain."""

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Text, Whitespace
from pygments.util import ClassNotFound

Style = TypeVar("Style")
_FENCE = re.compile(r"^```[ \t]*(\w*)[^\n]*\n", re.M)
# A Python answer without a fence starts like this; prose starts with a word, a blank and another word.
_CODE = re.compile(r'\s|@|#|"""|(def|class|import|from|return|for|while|if|with|try|async|print)\b|[\w.]+(\(|\[| *=)')


class Highlighter(Generic[Style]):
    """Call it with a text, then with longer texts that start with it: only what is new is read again.

    A fence names the language of the code in it. A text without a fence that starts like Python is Python.

    Args:
        style_of: the style of a Pygments token type.
    """

    def __init__(self, style_of: Callable[[Any], Style]) -> None:
        self._style_of, self._plain = style_of, style_of(Text)
        self._read = ""  # the text of `_done`, up to the end of a line
        self._done: list[tuple[str, Style]] = []
        self._lexer: Lexer | None = None

    def __call__(self, text: str) -> list[tuple[str, Style]]:
        """All of `text`, in pieces with their styles."""
        if not self._read or not text.startswith(self._read):
            self._read, self._done, self._lexer = "", [], _lexer("python") if _CODE.match(text) else None
        open_end: list[tuple[str, Style]] = []
        while (rest := text[len(self._read) :]) and not open_end:
            fence = _FENCE.search(rest)
            body = rest[: fence.start()] if fence else rest
            pieces, whole = self._styled(body, closed=fence is not None)
            self._keep(pieces[:whole])
            open_end = pieces[whole:]
            if fence:
                self._keep([(fence.group(), self._plain)])
                self._lexer = None if self._lexer else _lexer(fence.group(1) or "python")
            elif not open_end:
                break
        return self._done + open_end

    def _keep(self, pieces: list[tuple[str, Style]]) -> None:
        self._done += pieces
        self._read += "".join(text for text, _ in pieces)

    def _styled(self, text: str, *, closed: bool) -> tuple[list[tuple[str, Style]], int]:
        """The pieces of a text in one language, and how many of them more text cannot change."""
        if self._lexer is None:
            # A line may become a fence until it ends.
            lines = [(line, self._plain) for line in text.splitlines(keepends=True)]
            return lines, len(lines) if closed or text.endswith("\n") else max(0, len(lines) - 1)
        pieces: list[tuple[str, Style]] = []
        whole = 0
        # Some lexers yield tokens out of order; sorted by their offsets they are the text again.
        for _, kind, value in sorted(self._lexer.get_tokens_unprocessed(text), key=lambda found: found[0]):
            pieces.append((value, self._style_of(kind)))
            # A lexer starts afresh at the end of a line that is not in a string.
            if value.endswith("\n") and kind in Whitespace:
                whole = len(pieces)
        return pieces, len(pieces) if closed else whole


def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return get_lexer_by_name("text")
