"""A trace as a page that replays it, with charts: the file of `diffucode trace plot`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pages import write_page
from .autoregressiveness import distances, global_autoregressiveness, local_autoregressiveness
from .reader import text_or_bytes
from .run import Record, Trace

TEMPLATE = Path(__file__).with_name("page.html")
# The meaning of a commit's score, by `GenerationConfig.alg`.
SCORES = {
    "entropy": "negative entropy, nats",
    "maskgit_plus": "probability",
    "topk_margin": "margin of probability",
    "origin": "a random number",
}


def write_trace(trace: Trace, path: Path) -> None:
    """Write the page, whole or not at all. Raises `FileError`."""
    write_page(path, trace.header["model"], data_of(trace), flag="--out", template=TEMPLATE)


def data_of(trace: Trace) -> dict[str, Any]:
    """What the page shows, ready for JSON. Positions count from the start of the shown text."""
    start = trace.canvas.start - trace.prefix_length
    return {
        "model": trace.header["model"],
        "which": trace.canvas_name,
        "version": trace.header["version"],
        "config": trace.header["config"],
        "prompt": trace.text_of(trace.canvas.tokens[0, :start].tolist()),
        "mask": trace.canvas.mask_id,
        "ends": sorted(trace.canvas.end_ids),
        "tokens": trace.canvas.tokens[0, start:].tolist(),
        "pieces": {str(id): text_or_bytes(piece) for id, piece in trace.pieces.items()},
        "steps": [_row(record, start) for record in trace.records],
        "charts": _charts(trace),
    }


def _row(record: Record, start: int) -> dict[str, Any]:
    """A step; earlier positions than the start are left out."""
    at, tokens, scores = record.committed - start, record.tokens, record.scores
    others, filled = record.others[0] - start, record.others[1]
    return {
        "at": at[at >= 0].tolist(),
        "tokens": tokens[at >= 0].tolist(),
        "scores": [_short(score) for score in scores[at >= 0].tolist()],
        "back": [position for position in (record.remasked - start).tolist() if position >= 0],
        "others": [others[others >= 0].tolist(), filled[others >= 0].tolist()],
        "window": [max(0, end - start) for end in record.window],
        "nfe": record.nfe,
        "positions": record.positions,
        "seconds": record.seconds,
    }


def _short(score: float) -> float | None:
    return float(f"{score:.4g}") if math.isfinite(score) else None


def _charts(trace: Trace) -> list[dict[str, Any]]:
    """The charts besides the order of commits, which the page makes of the steps."""
    steps = list(trace.useful_steps())
    scored = [[distance, _short(score)] for _, distance, score in distances(steps, trace.useful) if math.isfinite(score)]
    name = SCORES.get(str(trace.header["config"].get("alg")), "score")
    measures = (("local", local_autoregressiveness), ("global", global_autoregressiveness))
    return [
        _chart("confidence when committed", "distance from the prefix, tokens", name, [{"points": scored}]),
        _chart(
            "autoregressiveness@k",
            "k",
            "share of tokens",
            [
                {
                    "name": name,
                    "line": True,
                    "points": [[k, share] for k in range(1, 17) if (share := measure(steps, trace.useful, k)) is not None],
                }
                for name, measure in measures
            ],
        ),
    ]


def _chart(title: str, x: str, y: str, series: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"title": title, "x": {"label": x}, "y": {"label": y}, "series": series}
