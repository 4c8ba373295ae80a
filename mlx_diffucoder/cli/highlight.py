"""Colours for a text that grows: code in the colours of the terminal's own palette, prose as it is."""

import re

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Whitespace
from pygments.util import ClassNotFound
from rich.style import Style
from rich.syntax import ANSI_DARK, ANSISyntaxTheme

Styled = list[tuple[str, Style]]

PLAIN = Style.null()
_FENCE = re.compile(r"^```[ \t]*(\w*)[^\n]*\n", re.M)
# How a Python answer starts that stands in no fence; prose starts with a word, a space and another one.
_CODE = re.compile(r'\s|@|#|"""|(def|class|import|from|return|for|while|if|with|try|async|print)\b|[\w.]+(\(|\[| *=)')


class Highlighter:
    """Called with a text, then with longer ones that start with it; only what is new is read again.

    A fence names the language of what stands in it. An answer that starts like Python is Python as long as there
    is no fence.
    """

    def __init__(self) -> None:
        self._theme = ANSISyntaxTheme(ANSI_DARK)
        self._read = ""  # what `_done` is of, up to a line's end
        self._done: Styled = []
        self._lexer: Lexer | None = None

    def __call__(self, text: str) -> Styled:
        """All of `text`, in pieces with their styles."""
        if not self._read or not text.startswith(self._read):
            self._read, self._done, self._lexer = "", [], _lexer("python") if _CODE.match(text) else None
        open_end: Styled = []
        while (rest := text[len(self._read) :]) and not open_end:
            fence = _FENCE.search(rest)
            body = rest[: fence.start()] if fence else rest
            pieces, whole = self._styled(body, closed=fence is not None)
            self._keep(pieces[:whole])
            open_end = pieces[whole:]
            if fence:
                self._keep([(fence.group(), PLAIN)])
                self._lexer = None if self._lexer else _lexer(fence.group(1) or "python")
            elif not open_end:
                break
        return self._done + open_end

    def _keep(self, pieces: Styled) -> None:
        self._done += pieces
        self._read += "".join(text for text, _ in pieces)

    def _styled(self, text: str, *, closed: bool) -> tuple[Styled, int]:
        """The pieces of a text in one language, and how many of them no more text can change."""
        if self._lexer is None:
            # A line may become a fence until it ends.
            lines = [(line, PLAIN) for line in text.splitlines(keepends=True)]
            return lines, len(lines) if closed or text.endswith("\n") else max(0, len(lines) - 1)
        pieces: Styled = []
        whole = 0
        # Some lexers hand out what they found late; by their places they are the text again.
        for _, kind, value in sorted(self._lexer.get_tokens_unprocessed(text), key=lambda found: found[0]):
            pieces.append((value, self._theme.get_style_for_token(kind)))
            # A line's end outside of strings is where a lexer starts afresh.
            if value.endswith("\n") and kind in Whitespace:
                whole = len(pieces)
        return pieces, len(pieces) if closed else whole


def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return get_lexer_by_name("text")
