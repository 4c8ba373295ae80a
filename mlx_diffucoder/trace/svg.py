"""The parts of an animated SVG: groups of elements that appear and vanish together, and their style sheet."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from .grid import Glyph

COLUMN, ROW = 9, 24  # pixels; a column is 0.6 em of the font, the width of most monospaced fonts
MARGIN = 24
FADE = 0.9  # seconds that a highlight takes to fade

Times = tuple[tuple[float, float], ...]
"""When something is visible: from and until, in seconds from the start of a round; infinite until its end."""

STYLE = """
svg{--page:#fcfcfb;--edge:#d9d8d4;--ink:#24262b;--quiet:#b3b2ad;--soft:#6f6e69;--fresh:#b9ebc6;--gone:#f9c9c4;--red:#c4392b;
--keyword:#a1269b;--string:#28733c;--number:#9a5b00;--function:#1f5fbf;--builtin:#0b7285;--bar:#3aa55d}
@media (prefers-color-scheme:dark){svg{--page:#17191d;--edge:#33363d;--ink:#e3e4e8;--quiet:#565a63;--soft:#9a9ea8;--fresh:#1f5a35;
--gone:#6d2a26;--red:#ff8577;--keyword:#d996e8;--string:#9bd18b;--number:#e8b765;--function:#82b4ff;--builtin:#6fcad6;--bar:#47b96c}}
text{font:15px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--ink)}
.k{fill:var(--keyword)}.s{fill:var(--string)}.n{fill:var(--number)}.f{fill:var(--function)}.b{fill:var(--builtin)}
.c,.u{fill:var(--soft)}.q,.g{fill:var(--quiet)}.g{font-style:italic}.x{fill:var(--red);font-weight:bold}
.page{fill:var(--page);stroke:var(--edge)}.edge{stroke:var(--edge)}.dot{fill:var(--quiet)}
.fresh{fill:var(--fresh)}.gone{fill:var(--gone)}.bar{fill:var(--bar)}.h{opacity:0}
"""
# Later layers are drawn over earlier ones.
LAYERS = ("fresh", "known", "dots", "guesses", "text", "marks", "numbers")


def text_element(glyphs: Sequence[Glyph], top: float) -> str:
    """A `<text>` with every character at its column, whatever font there is; `top` is that of row 0, in pixels."""
    runs: list[list[Glyph]] = []
    for glyph in glyphs:
        last = runs[-1][-1] if runs else None
        alike = last and last.row == glyph.row and last.colour == glyph.colour
        # One x counts for one character of plain text only: others may be drawn as fewer or more.
        if alike and last and last.text.isascii() and glyph.text.isascii():
            # One blank is part of the text; of several, SVG keeps one.
            runs[-1] += [Glyph(" ", last.column + 1, last.row)] * (glyph.column == last.column + 2)
            runs[-1].append(glyph)
        else:
            runs.append([glyph])
    spans = []
    for run in runs:
        places = " ".join(f"{MARGIN + COLUMN * glyph.column}" for glyph in run)
        colour = f' class="{run[0].colour}"' if run[0].colour else ""
        text = escape("".join(glyph.text for glyph in run), quote=False)
        spans.append(f'<tspan x="{places}" y="{top + ROW * run[0].row + 17:g}"{colour}>{text}</tspan>')
    return f"<text>{''.join(spans)}</text>" if spans else ""


class Film:
    """Elements by layer and by the times at which they are visible; a group shares one set of keyframes.

    Args:
        seconds: the length of a round.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._groups: dict[tuple[str, Times], list[str]] = {}
        self._widths = ["0%{transform:scaleX(0)}"]

    def show(self, layer: str, times: Iterable[tuple[float, float]], element: str) -> None:
        """Add an element that is visible at these times; in the layer `fresh` it fades out from the start of each."""
        if element:
            self._groups.setdefault((layer, tuple(times)), []).append(element)

    def widen(self, time: float, share: float) -> None:
        """From this time on, show this share of the bar."""
        self._widths.append(f"{self._percent(time)}{{transform:scaleX({share:.4g})}}")

    def body(self) -> str:
        """All groups, a line each. One that is there at the end is there without animation too."""
        return "\n".join(
            f'<g class="t{"" if times[-1][1] == math.inf else " h"}" style="animation-name:t{number}">{"".join(elements)}</g>'
            for number, ((_, times), elements) in enumerate(self._sorted())
        )

    def css(self) -> str:
        """The keyframes of the groups, and of the whole round, which fades out before the next."""
        length = f"{self._seconds:.4g}s"
        rules = [
            f".t,.bar{{animation:bar {length} step-end infinite}}.round{{animation:round {length} linear infinite}}",
            "@keyframes round{0%{opacity:0}2%{opacity:1}98%{opacity:1}100%{opacity:0}}",
            f"@keyframes bar{{{''.join(self._widths)}}}",
        ]
        for number, ((layer, times), _) in enumerate(self._sorted()):
            rules.append(f"@keyframes t{number}{{{self._frames(times, fading=layer == 'fresh')}}}")
        rules.append("@media (prefers-reduced-motion:reduce){.t,.bar,.round{animation:none}}")
        return "\n".join(rules) + "\n"

    def _sorted(self) -> list[tuple[tuple[str, Times], list[str]]]:
        return sorted(self._groups.items(), key=lambda group: LAYERS.index(group[0][0]))

    def _percent(self, time: float) -> str:
        return f"{100 * time / self._seconds:.3f}".rstrip("0").rstrip(".") + "%"

    def _frames(self, times: Times, *, fading: bool) -> str:
        frames = ["0%{opacity:0}"] if fading or times[0][0] > 0 else []
        for start, stop in times:
            end = min(start + FADE, stop, self._seconds) if fading else stop
            frames.append(f"{self._percent(start)}{{opacity:1{';animation-timing-function:ease-in' if fading else ''}}}")
            if fading or end < self._seconds:
                frames.append(f"{self._percent(end)}{{opacity:0}}")
        return "".join(frames)
