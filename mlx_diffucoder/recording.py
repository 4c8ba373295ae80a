"""Writing a run down: one JSON object a line, its first line what was run, then a line a step.

A line is in the file when its step is over, so a run that was stopped leaves what it did. It holds
the texts of its tokens: neither the model nor its tokenizer is needed to read it (`traces`).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .canvas import Canvas
from .config import GenerationConfig
from .errors import TraceError
from .tokenizer import Tokenizer
from .trace import Step
from .traces import FORMAT, KEY, text_or_bytes


def trace_to(
    path: Path, steps: Iterable[Step], canvas: Canvas, tokenizer: Tokenizer, config: GenerationConfig, model: str
) -> Generator[Step, None, None]:
    """Pass the steps of one canvas on, writing each into a new file.

    Args:
        canvas: as it was before the first step; of its rows, the first.
        model: what the model is called.

    Raises:
        TraceError: the file cannot be written, or holds something that is no trace; raised by the call.
    """
    check_trace(path)
    try:
        file = path.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise _unwritable(path, error) from None
    first = canvas.tokens[0, canvas.padding[0] :]
    lines = _Lines(first, tokenizer.piece)
    header = _header(canvas, first, lines.pieces_of(first), tokenizer, config, model)

    def write(row: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")
            file.flush()
        except OSError as error:
            raise _unwritable(path, error) from None

    def passed_on() -> Generator[Step, None, None]:
        start, end = time.perf_counter(), "stopped"
        try:
            for step in steps:
                write(lines.step(step, time.perf_counter() - start))
                yield step
            end = "done"
        finally:
            try:
                write({"end": end, "seconds": _short(time.perf_counter() - start)})
            finally:
                file.close()

    write(header)
    return passed_on()


def check_trace(path: Path) -> None:
    """Refuse a file that a trace must not be written over, before a model is loaded for it. Raises `TraceError`."""
    if path.is_dir() or not path.parent.is_dir():
        raise TraceError(f"--trace {path}: cannot be written; name a file in a folder that is there")
    try:
        if path.is_file() and path.stat().st_size and KEY.encode() not in path.open("rb").readline(200):
            raise TraceError(f"--trace {path}: is there already and is no trace; name another file")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> TraceError:
    return TraceError(f"--trace {path}: cannot be written ({error.strerror or error})")


def _header(
    canvas: Canvas,
    first: NDArray[np.int32],
    pieces: dict[str, Any],
    tokenizer: Tokenizer,
    config: GenerationConfig,
    model: str,
) -> dict[str, Any]:
    return {
        KEY: FORMAT,
        "version": __version__,
        "model": model,
        "tokenizer": digest(tokenizer),
        "config": config.to_dict(),
        "mask": canvas.mask_id,
        "pad": canvas.pad_id,
        "ends": sorted(canvas.end_ids),
        "start": int(canvas.start - canvas.padding[0]),
        "canvas": _packed(first, canvas.mask_id),
        "pieces": pieces,
    }


def digest(tokenizer: Tokenizer) -> str:
    """What tells a tokenizer from others: a hash of its tokens and their ids."""
    text = json.dumps(sorted(tokenizer.vocabulary.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _packed(tokens: NDArray[np.int32], mask_id: int) -> list[int]:
    """Ids, with -n for n masks."""
    packed: list[int] = []
    for token in tokens.tolist():
        if token != mask_id:
            packed.append(token)
        elif packed and packed[-1] < 0:
            packed[-1] -= 1
        else:
            packed.append(-1)
    return packed


def _short(number: float) -> float | None:
    """Six digits say enough."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


class _Lines:
    """Steps as lines, each token's text in the first line that has it."""

    def __init__(self, tokens: NDArray[np.int32], piece: Callable[[int], bytes]):
        self._tokens, self._piece, self._said = tokens, piece, set[int]()

    def step(self, step: Step, seconds: float) -> dict[str, Any]:
        expected = self._tokens.copy()
        expected[step.committed] = step.tokens[step.committed]
        expected[step.remasked] = step.tokens[step.remasked]
        others = np.flatnonzero(expected != step.tokens)
        self._tokens = step.tokens
        row: dict[str, Any] = {
            "step": step.index,
            "seconds": _short(seconds),
            "nfe": step.nfe,
            "positions": step.positions,
            "window": list(step.window),
            "at": step.committed.tolist(),
            "tokens": step.tokens[step.committed].tolist(),
            "scores": [_short(score) for score in step.scores.tolist()],
        }
        if len(step.remasked):
            row["back"] = step.remasked.tolist()
        if len(others):  # padding behind a finished text, or what a hook wrote
            row["others"] = [others.tolist(), step.tokens[others].tolist()]
        if pieces := self.pieces_of(step.tokens[np.concatenate([step.committed, others])]):
            row["pieces"] = pieces
        return row

    def pieces_of(self, tokens: NDArray[np.int32]) -> dict[str, Any]:
        """The texts of those ids that no line had yet; of one that ends inside a character, its bytes."""
        new = sorted(set(tokens.tolist()) - self._said)
        self._said.update(new)
        return {str(id): text_or_bytes(self._piece(id)) for id in new}
