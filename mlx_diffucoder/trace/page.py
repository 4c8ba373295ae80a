"""A trace as one HTML page that replays it without network or libraries: the file of `diffucode trace plot`."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..plotting import check_plot
from .reader import text_or_bytes
from .record import Record
from .run import Trace

TEMPLATE = Path(__file__).with_name("page.html")


def check_page(path: Path) -> None:
    """Raise `ConfigError` for a name of another kind, or `FileError` if the file cannot be written or is not a page."""
    if path.suffix.lower() != ".html":
        raise ConfigError(f"--out {path}: the name must end in .html; bench/studies/trace_picture.py draws others", field="--out")
    check_plot(path, flag="--out")


def page_of(trace: Trace) -> str:
    """The page's HTML. The model's text is in it as JSON data only, and is shown as text."""
    # "<" could end the element that holds the data.
    data = json.dumps(_data(trace), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    values = {"title": html.escape(trace.header["model"]), "data": data}
    page = re.sub("{{(title|data)}}", lambda found: values[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    return page.encode("utf-8", "replace").decode()


def _data(trace: Trace) -> dict[str, Any]:
    start = trace.canvas.start - trace.prefix_length
    return {
        "model": trace.header["model"],
        "which": trace.canvas_name,
        "version": trace.header["version"],
        "config": trace.header["config"],
        "prompt": trace.text_of(trace.canvas.tokens[:start].tolist()),
        "mask": trace.canvas.mask_id,
        "ends": sorted(trace.canvas.end_ids),
        "tokens": trace.canvas.tokens[start:].tolist(),
        "pieces": {str(id): text_or_bytes(piece) for id, piece in trace.pieces.items()},
        "steps": [_row(record, start) for record in trace.records],
    }


def _row(record: Record, start: int) -> dict[str, Any]:
    """A step; positions count from the start of the shown text, and earlier ones are left out."""
    at, tokens, scores = record.committed - start, record.tokens, record.scores
    others, filled = record.others[0] - start, record.others[1]
    guessed, guesses = record.rejected[0] - start, record.rejected[1]
    return {
        "at": at[at >= 0].tolist(),
        "tokens": tokens[at >= 0].tolist(),
        "scores": [float(f"{score:.4g}") if math.isfinite(score) else None for score in scores[at >= 0].tolist()],
        "back": [position for position in (record.remasked - start).tolist() if position >= 0],
        "others": [others[others >= 0].tolist(), filled[others >= 0].tolist()],
        "deleted": [position for position in (record.deleted - start).tolist() if position >= 0],
        "expanded": [position for position in (record.expanded - start).tolist() if position >= 0],
        "rejected": [guessed[guessed >= 0].tolist(), guesses[guessed >= 0].tolist()],
        "window": [max(0, end - start) for end in record.window],
        "nfe": record.nfe,
        "positions": record.positions,
        "seconds": record.seconds,
    }
