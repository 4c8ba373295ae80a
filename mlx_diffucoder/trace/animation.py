"""A trace as an animated SVG: the canvas as it fills, for a README or a slide.

The picture uses CSS animations only: no script, no font to load, no link. Every token has its place in the final
text, so nothing moves: a mask is a dot there until a token is committed. A mask that the model inserts is a dot from then on,
and a bar flashes where one leaves. A guess that is rejected is there while the forward that rejects it runs, cut to its place.
Without animation (an old viewer, or a reader who asked for reduced motion) the picture shows the final text. Pure: a trace
in, text out.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import accumulate, pairwise, zip_longest
from pathlib import Path

from rich.cells import set_cell_size

from ..errors import ConfigError, TraceError
from ..files import check_output
from ..formatting import visible
from .cells import Cell, cells_of, guess_text
from .grid import Grid, Slot, slots_of
from .record import Resizing
from .run import Trace
from .svg import COLUMN, MARGIN, ROW, STYLE, Film, text_element

MARKER = "<!-- made by diffucode trace animate -->"
COLUMNS = 72
MOST = 2**14  # tokens
PADDING, LINE = 14, 44  # pixels: above and below the canvas; the height of the lines above and below it
LEAD, HOLD, MARKED = 0.8, 3.5, 0.7  # seconds: only masks, the final text, a cross where a token was remasked
NEVER = math.inf


@dataclass
class Commit:
    """A token that a step wrote.

    Attributes:
        position: in the canvas.
        token: its id.
        start, stop: when it is there, in seconds from the start of the animation; `stop` is infinite if it stays.
        remasked: whether a mask follows it.
    """

    position: int
    token: int
    start: float
    stop: float = NEVER
    remasked: bool = False


def animation_of(trace: Trace, *, title: str | None = None, speed: float = 1.0, columns: int = COLUMNS) -> str:
    """The text of an SVG file that replays a trace in a loop.

    Args:
        title: the line at the top; by default the model's name.
        speed: how many times as fast as the run was.
        columns: characters in a line; longer lines are broken.

    Raises:
        TraceError: the canvas has too many tokens for a picture.
    """
    resizings, trace = trace.resizings, trace.on_final
    if (count := len(trace.masked) - trace.canvas.start + trace.prefix_length) > MOST:
        raise TraceError(f"{trace.path}: has {count} tokens, and an animation shows at most {MOST}; trace plot shows it")
    times = [LEAD + record.seconds / speed for record in trace.records]
    film = Film((times[-1] if times else LEAD) + HOLD)
    heading = textwrap.wrap(visible(title or trace.header["model"]), columns)
    top = LINE + (len(heading) - 1) * ROW
    changes = list(zip(resizings, times, strict=bool(resizings)))
    rows = _draw_canvas(film, trace, times, changes, columns, top + PADDING)
    bottom = top + 2 * PADDING + rows * ROW
    width, height = 2 * MARGIN + columns * COLUMN, bottom + LINE
    speed_mark = "" if speed == 1 else f"{speed:g}x speed"
    _draw_numbers(film, trace, times, resizings, columns - len(speed_mark) - 1, bottom + 10)
    label = escape(f"{visible(trace.header['model'])} fills {int(trace.masked.sum())} masks in {trace.stats.nfe} forwards")
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
role="img" aria-label="{label}">
{MARKER}
<style>{STYLE}{film.css()}</style>
<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>
<path class="edge" d="M1 {top}.5H{width - 1}M1 {bottom}.5H{width - 1}"/>
{"".join(_line(text, 10 + ROW * row) for row, text in enumerate(heading))}{_line(speed_mark.rjust(columns), bottom + 10)}
<g class="round">
<svg x="1" y="{bottom - 1}"><rect class="bar" width="{width - 2}" height="3"/></svg>
{film.body()}
</g>
</svg>
"""


def check_animation(path: Path) -> None:
    """Raises `ConfigError` unless the file is new, or an animation that this module made."""
    if path.suffix.lower() != ".svg":
        raise ConfigError(f"--out {path}: the name must end in .svg", field="--out")
    check_output(path, MARKER, "an animation of a trace", flag="--out", error=ConfigError)


def commits_of(trace: Trace, times: Sequence[float]) -> list[Commit]:
    """Every token that a step wrote, in the order of the steps; `times` says when each step is over."""
    found: list[Commit] = []
    latest: dict[int, Commit] = {}  # position -> its current token
    for record, time in zip(trace.records, times, strict=True):
        for positions, tokens in ((record.committed, record.tokens), record.others):
            for position, token in zip(positions.tolist(), tokens.tolist(), strict=True):
                if position in latest:
                    latest[position].stop = time
                latest[position] = Commit(position, token, time)
                found.append(latest[position])
        for position in record.remasked.tolist():
            if gone := latest.pop(position, None):
                gone.stop, gone.remasked = time, True
    return found


def guesses_of(trace: Trace, times: Sequence[float]) -> dict[int, list[tuple[float, float, int]]]:
    """By position the rejected guesses: when the forward that rejects each begins and is over, and the token."""
    found: dict[int, list[tuple[float, float, int]]] = {}
    for record, (start, stop) in zip(trace.records, pairwise([0.0, *times]), strict=True):
        for position, token in zip(*(one.tolist() for one in record.rejected), strict=True):
            found.setdefault(position, []).append((start, stop, token))
    return found


def _draw_canvas(
    film: Film, trace: Trace, times: Sequence[float], changes: Sequence[tuple[Resizing, float]], columns: int, top: int
) -> int:
    """Dots, guesses, tokens, highlights and crosses; returns how many rows they take."""
    first = trace.canvas.start - trace.prefix_length
    slots = dict(enumerate(slots_of(_final_cells(trace, first), Grid(columns)), start=first))
    wanted, guesses = trace.useful, guesses_of(trace, times)
    new = {position: time for resizing, time in changes for position in resizing.inserted.tolist()}
    written: dict[int, list[Commit]] = {position: [] for position in slots}
    for commit in commits_of(trace, times):
        if commit.position in slots:
            written[commit.position].append(commit)
    for position, slot in slots.items():
        if trace.masked[position]:
            column, row, width = slot.spans[0]
            x, y = MARGIN + COLUMN * (column + width / 2), top + ROW * row + 12
            masked = _masked_times(written[position], new.get(position, 0.0))
            if wanted[position]:
                masked = _draw_guesses(film, trace, guesses.get(position, ()), masked, slot, top)
            film.show("dots", masked, f'<circle class="dot" cx="{x:g}" cy="{y}" r="2"/>' if masked else "")
        elif not written[position] and trace.piece(int(trace.canvas.tokens[position])):
            film.show("known", [(0.0, NEVER)], text_element(slot.glyphs, top))
        # After the end of a text there is only padding.
        shown = written[position] if wanted[position] or not trace.masked[position] else []
        for commit, following in zip_longest(shown, shown[1:]):
            _draw_commit(film, trace, commit, slot, top, following.start if following else NEVER)
    for resizing, time in changes:
        for position in set(resizing.before_deleted.tolist()) & slots.keys():
            column, row, _ = slots[position].spans[0]
            film.show("fresh", [(time, time + MARKED)], _boxes(Slot([], [(column, row, 0)]), top, "gone"))
    return 1 + max((row for slot in slots.values() for _, row, _ in slot.spans), default=0)


def _final_cells(trace: Trace, first: int) -> list[Cell]:
    """What the tokens from `first` on show in the end; a hole's text stands between its blank and its line ends."""
    tokens = trace.final
    cells = cells_of(tokens[first:].tolist(), trace.piece, trace.canvas.mask_id)
    layout = trace.layout
    if layout is None:
        return cells
    for (start, stop), lead, tail in zip(trace.canvas.holes.tolist(), layout.leads, layout.tails, strict=True):
        text = "".join(cell.text for cell in cells[start - first : stop - first] if not cell.ends)
        missing = len(tail) - (len(text) - len(text.rstrip("\n")))
        if start > first and not text.startswith(lead):
            cells[start - first - 1] = replace(before := cells[start - first - 1], text=before.text + lead)
        if missing > 0 and stop - first < len(cells):
            cells[stop - first] = replace(after := cells[stop - first], text="\n" * missing + after.text)
    return cells


def _masked_times(commits: Sequence[Commit], start: float) -> list[tuple[float, float]]:
    """When there is a mask, of a position that had its first at `start`."""
    if not commits:
        return [(start, NEVER)]
    gaps = [(one.stop, other.start) for one, other in pairwise(commits) if one.remasked]
    after = [(commits[-1].stop, NEVER)] if commits[-1].remasked else []
    return [(start, commits[0].start), *gaps, *after]


def _draw_guesses(
    film: Film,
    trace: Trace,
    guesses: Iterable[tuple[float, float, int]],
    masked: list[tuple[float, float]],
    slot: Slot,
    top: int,
) -> list[tuple[float, float]]:
    """Rejected guesses at one position. Returns when there is still a dot.

    Args:
        masked: when there is a mask.
    """
    column, row, width = slot.spans[0]
    for start, stop, token in guesses:
        text = set_cell_size(guess_text(trace.piece(token)), width).rstrip()
        around = next(((low, high) for low, high in masked if low <= start < stop <= high), None)
        if text and around:
            film.show(
                "guesses", [(start, stop)], text_element(Grid(10**9, column, row).place(text, ["g"] * len(text)).glyphs, top)
            )
            (low, high), at = around, masked.index(around)
            masked = [*masked[:at], *((a, b) for a, b in ((low, start), (stop, high)) if a < b), *masked[at + 1 :]]
    return masked


def _draw_commit(film: Film, trace: Trace, commit: Commit, slot: Slot, top: int, following: float) -> None:
    """A token, its highlight, and the cross that marks its remasking.

    Args:
        following: when the next token is committed at this position.
    """
    if commit.stop < NEVER:  # not the token that the slot was made for
        (cell,) = cells_of([commit.token], trace.piece, trace.canvas.mask_id)
        text = "" if cell.ends else "".join(cell.text.split()) or "↵"
        slot = Grid(10**9, *slot.spans[0][:2]).place(text, [""] * len(text))
    film.show("fresh", [(commit.start, commit.stop)], _boxes(slot, top, "fresh"))
    film.show("text", [(commit.start, commit.stop)], text_element(slot.glyphs, top) if trace.piece(commit.token) else "")
    if commit.remasked:
        times = [(commit.stop, min(commit.stop + MARKED, following))]
        cross = Grid(10**9, *slot.spans[0][:2]).place("×", ["x"])
        film.show("fresh", times, _boxes(cross, top, "gone"))
        film.show("marks", times, text_element(cross.glyphs, top))


def _boxes(slot: Slot, top: int, name: str) -> str:
    return "".join(
        f'<rect class="{name}" x="{MARGIN + COLUMN * column - 1}" y="{top + ROW * row + 1}" width="{COLUMN * width + 2}"'
        f' height="{ROW - 2}" rx="3"/>'
        for column, row, width in slot.spans
    )


def _draw_numbers(
    film: Film, trace: Trace, times: Sequence[float], resizings: Sequence[Resizing], columns: int, top: int
) -> None:
    """The line below the canvas, step by step, and the bar above it."""
    wanted = trace.useful
    total = int(wanted.sum()) or 1
    nfes = [0, *(record.nfe for record in trace.records)]
    useful = [0, *(int((step.tokens != trace.canvas.mask_id)[wanted].sum()) for step in trace.steps())]
    inserted, deleted = (list(accumulate((len(getattr(one, name)) for one in resizings), initial=0)) for name in Resizing._fields)
    every = zip(nfes, useful, pairwise([0.0, *times, NEVER]), strict=True)
    for number, (nfe, count, (start, stop)) in enumerate(every):
        parts = [f"{nfe} forward{'' if nfe == 1 else 's'}"]
        parts += [f"{count} useful tokens"] if nfe else []
        parts += [f"{inserted[number]} inserted, {deleted[number]} deleted"] if resizings else []
        parts += [f"{count / nfe:.1f} per forward"] if nfe else []
        while len(text := " · ".join(parts)) > columns:
            parts.pop()
        film.show("numbers", [(start, stop)], _line(text, top))
        film.widen(start, count / total)


def _line(text: str, top: int) -> str:
    return text_element(Grid(10**9).place(text, ["u"] * len(text)).glyphs, top)
