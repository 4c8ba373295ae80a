"""Record the steps of a run in a file: one JSON object a line.

The first line says what was run; then each step has a line. When several canvases are denoised together, a line opens
each of them, and a step has a line for each canvas that it changes. A line is in the file when its step is over, so a
stopped run leaves its steps. The file holds the texts of its tokens: `reader` needs neither model nor tokenizer.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..config import GenerationConfig
from ..decoding.canvas import Canvas
from ..decoding.hole_layout import HoleLayout
from ..decoding.result import Step, resized
from ..errors import TraceError
from ..files import check_output, open_locked
from ..tokenizer import Tokenizer
from .reader import FORMAT, KEY, ROWS_FORMAT, text_or_bytes

Rows = tuple[Step, ...]
"""A step for each row of a batch, as `denoise` yields them."""


def traced(
    path: Path, steps: Iterable[Step], canvas: Canvas, tokenizer: Tokenizer, config: GenerationConfig, model: str
) -> Generator[Step, None, None]:
    """Yield the steps of one canvas, and write each to a new file.

    Args:
        canvas: before the first step.
        model: the model's name.

    Raises:
        TraceError: the file cannot be written, or exists and is not a trace. Raised by the call.
    """
    header = _header(FORMAT, tokenizer, canvas, config, model)
    header |= {"start": canvas.start, "canvas": _packed(canvas.tokens, canvas.mask_id)}
    file = _File(path, tokenizer, header, canvas.tokens)
    lines = _Lines(canvas.tokens, file)

    def written() -> Generator[Step, None, None]:
        end = "stopped"
        try:
            for step in steps:
                file.write(lines.step(step, file.seconds))
                yield step
            end = "done"
        finally:
            file.close(end=end)

    return written()


class TraceWriter:
    """A new file for several canvases of one text, denoised together or one batch after another.

    Use it in a `with` statement. The first batch creates the file, so an error before that leaves none.

    Attributes:
        kept: the canvas whose text is kept, counted from 1; set by the caller who chooses it.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, config: GenerationConfig, model: str):
        self._path, self._tokenizer, self._config, self._model = path, tokenizer, config, model
        self._file: _File | None = None
        self._count = 0
        self.kept: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            kept = {} if self.kept is None else {"kept": self.kept}
            self._file.close(end="stopped" if kind else "done", **kept)

    def batch(
        self, canvases: Sequence[Canvas], steps: Iterable[Rows], layout: HoleLayout | None = None
    ) -> Generator[Rows, None, None]:
        """Yield the steps of a batch, and write each: a line for each row that it changes.

        Args:
            canvases: before the first step, of one text.
            layout: of a text with holes; None for answers.

        Raises:
            TraceError: the file cannot be written, or exists and is not a trace.
        """
        file = self._file = self._file or self._opened(canvases[0], layout)
        lines: dict[int, _Lines] = {}
        for canvas in canvases:
            self._count += 1
            lines[self._count] = _Lines(canvas.tokens, file)
            file.write({"row": self._count, "seconds": _short(file.seconds), "lengths": canvas.lengths})
        for rows in steps:
            seconds = file.seconds
            for (number, writer), step in zip(lines.items(), rows, strict=True):
                if writer.changed_by(step):
                    file.write({"row": number, **writer.step(step, seconds)})
            yield rows

    def _opened(self, canvas: Canvas, layout: HoleLayout | None) -> "_File":
        header = _header(ROWS_FORMAT, self._tokenizer, canvas, self._config, self._model)
        header["texts"] = [_packed(text, canvas.mask_id) for text in canvas.texts]
        if layout is not None:
            header["frame"] = layout._asdict()
        return _File(self._path, self._tokenizer, header, canvas.tokens)


def trace_writer(
    path: Path | None, tokenizer: Tokenizer, config: GenerationConfig, model: str
) -> AbstractContextManager[TraceWriter | None]:
    """A `TraceWriter` for a file; with no file, a context that gives None."""
    return nullcontext() if path is None else TraceWriter(path, tokenizer, config, model)


def check_trace(path: Path) -> None:
    """Check that a trace can be written to a file, before a model is loaded.

    Raises:
        TraceError: the folder does not exist, or the file exists and is not a trace.
    """
    check_output(path, f'{{"{KEY}"', "a trace", flag="--trace", error=TraceError)


def make_folder(folder: Path) -> None:
    """Make a folder for traces, if there is none. Raises `TraceError` if it cannot be made."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise TraceError(f"--trace {folder}: cannot create this folder ({error.strerror or error})") from None


def next_trace(path: Path) -> Path:
    """`run.jsonl` -> `run-1.jsonl`, or the number after the largest in the folder, so no file is replaced."""
    if not path.name:
        return path  # a folder, which `check_trace` refuses
    names = re.compile(re.escape(path.stem) + r"-([0-9]+)" + re.escape(path.suffix))
    found = (names.fullmatch(file.name) for file in path.parent.iterdir()) if path.parent.is_dir() else ()
    return path.with_stem(f"{path.stem}-{1 + max((int(one[1]) for one in found if one), default=0)}")


def _unwritable(path: Path, error: OSError) -> TraceError:
    return TraceError(f"--trace {path}: cannot be written ({error.strerror or error})")


class _File:
    """A trace file while it is written; its clock starts after the first line, the header with the texts of `tokens`."""

    def __init__(self, path: Path, tokenizer: Tokenizer, header: dict[str, Any], tokens: NDArray[np.int32]):
        check_trace(path)
        try:
            # A device or a pipe has nothing to lock or to empty.
            special = path.exists() and not path.is_file()
            self._file = path.open("wb") if special else open_locked(path)
            if not special:
                self._file.truncate()
        except BlockingIOError:
            raise TraceError(f"--trace {path}: another run is writing it; wait for it, or name another file") from None
        except OSError as error:
            raise _unwritable(path, error) from None
        self._path, self._piece, self._known = path, tokenizer.piece, set[int]()
        self.write({**header, "pieces": self.new_pieces(tokens)})
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def new_pieces(self, tokens: NDArray[np.int32]) -> dict[str, Any]:
        """The texts of the ids that no line has had yet: each is written once in a file."""
        new = sorted(set(tokens.tolist()) - self._known)
        self._known.update(new)
        return {str(id): text_or_bytes(self._piece(id)) for id in new}

    def write(self, row: dict[str, Any]) -> None:
        try:
            line = json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n"
            self._file.write(line.encode("utf-8", "backslashreplace"))  # half of a pair becomes JSON's escape
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def close(self, **last: Any) -> None:
        """Write the last line, which says how the run ended."""
        try:
            self.write({**last, "seconds": _short(self.seconds)})
        finally:
            self._file.close()


def _header(format: int, tokenizer: Tokenizer, canvas: Canvas, config: GenerationConfig, model: str) -> dict[str, Any]:
    return {
        KEY: format,
        "version": __version__,
        "model": model,
        "tokenizer": digest(tokenizer),
        "config": config.to_dict(),
        "mask": canvas.mask_id,
        "pad": canvas.pad_id,
        "ends": sorted(canvas.end_ids),
    }


def digest(tokenizer: Tokenizer) -> str:
    """A hash of a tokenizer's tokens and ids, which tells it from others."""
    text = json.dumps(sorted(tokenizer.vocabulary.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _packed(tokens: NDArray[np.int32], mask_id: int) -> list[int]:
    """Ids, with -n in place of n masks."""
    packed: list[int] = []
    for is_mask, group in groupby(tokens.tolist(), key=lambda token: token == mask_id):
        run = list(group)
        packed += [-len(run)] if is_mask else run
    return packed


def _short(number: float) -> float | None:
    """A number with six digits; None if it is not finite."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


class _Lines:
    """The steps of one canvas as lines; a token's text is in the first line that has the token."""

    def __init__(self, tokens: NDArray[np.int32], file: _File):
        self._tokens, self._file, self._forwards = tokens, file, 0

    def changed_by(self, step: Step) -> bool:
        """Whether the step changed this canvas; a finished row waits for the others of its batch."""
        lists = (step.committed, step.deleted, step.expanded)
        return any(map(len, lists)) or not np.array_equal(self._tokens, step.tokens)

    def step(self, step: Step, seconds: float) -> dict[str, Any]:
        """The line of a step that was over after `seconds`."""
        expected = resized(self._tokens, step.deleted, step.expanded)
        expected[step.committed] = step.tokens[step.committed]
        others = np.flatnonzero(expected != step.tokens)
        self._tokens, before = step.tokens, self._forwards
        self._forwards = len(step.rows)
        row: dict[str, Any] = {
            "step": step.index,
            "seconds": _short(seconds),
            "nfe": step.nfe,
            "positions": step.positions,
            "rows": step.rows[before:],
            "window": list(step.window),
            "at": step.committed.tolist(),
            "tokens": step.tokens[step.committed].tolist(),
            "scores": [_short(score) for score in step.scores.tolist()],
        }
        for name in ("deleted", "expanded"):
            if len(positions := getattr(step, name)):
                row[name] = positions.tolist()
        if len(others):  # padding after the end of a text, or tokens that a hook wrote
            row["others"] = [others.tolist(), step.tokens[others].tolist()]
        if len(step.rejected):
            row["rejected"] = step.rejected.T.tolist()
        written = (step.tokens[step.committed], step.tokens[others], step.rejected[:, 1])
        if pieces := self._file.new_pieces(np.concatenate(written)):
            row["pieces"] = pieces
        return row
