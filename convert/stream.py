"""Stream the weights: read, check, cast, quantize and write rows, a few MB at a time.

Quantizing works along rows, so any chunk of rows gives the same bytes as the whole matrix. Memory use does
not depend on the size of the model or of its matrices.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_diffucoder.arrays import from_numpy
from mlx_diffucoder.errors import CheckpointError, ConvertError

from .plan import Width
from .shards import ShardWriter

CHUNK = 16 << 20
"""Bytes to read at once."""
PARTS = 8
"""Parts of a chunk that are read one by one where rows are changed, which takes several copies in float32."""
AHEAD = 2
"""Chunks that MLX computes while another is read and written; on a CPU each uses one core."""

# A float whose exponent bits are all ones is an infinity or NaN. Shifted past the sign bit, it compares largest.
EXPONENT = {mx.float32: (np.uint32, 0xFF000000), mx.float16: (np.uint16, 0xF800), mx.bfloat16: (np.uint16, 0xFF00)}

_of_this_thread = threading.local()


class Stored(NamedTuple):
    """A weight of the source and the location of its bytes."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.size


@dataclass(frozen=True, kw_only=True)
class Item:
    """Source weights that are read together, and the weights computed from them row by row.

    Attributes:
        was: the width to dequantize the rows from; None leaves them as they are.
        change: what to do with rows in the source's type, and the number of the first.
        dtype: the type that floats are cast to; None for their own.
        now: the width to quantize them to.
    """

    sources: tuple[str, ...]
    results: tuple[str, ...]
    was: Width | None = None
    change: Callable[[mx.array, int], mx.array] | None = None
    dtype: mx.Dtype | None = None
    now: Width | None = None

    def make(self, rows: Sequence[mx.array], start: int) -> Sequence[mx.array]:
        """The results' rows from row `start` on, of those of the sources."""
        if self.was:
            packed: Any = self._cast(rows)
            rows = [mx.dequantize(*packed, **asdict(self.was))]
        if self.change:
            rows = [self.change(rows[0], start)]
        rows = self._cast(rows)
        return mx.quantize(rows[0], **asdict(self.now)) if self.now else rows

    def _cast(self, rows: Sequence[mx.array]) -> Sequence[mx.array]:
        return [row.astype(self.dtype) if self.dtype and mx.issubdtype(row.dtype, mx.floating) else row for row in rows]


def stream(
    items: Sequence[Item],
    sources: Mapping[str, Stored],
    writer: ShardWriter,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Compute every item; each byte is read once and written once.

    Args:
        progress: called after each chunk with a weight's name and the bytes just read.

    Raises:
        CheckpointError: a weight holds infinities or NaNs, or its file cannot be read.
        ConvertError: a weight is too large for the type it is cast to.
    """
    streams = _streams()
    pending: deque[tuple[Item, list[mx.array], list[mx.Dtype]]] = deque()
    for number, (item, start, rows, size) in enumerate(_chunks(items, sources)):
        with mx.stream(streams[number % len(streams)]):
            results = list(item.make(rows, start))
            pieces = [mx.contiguous(one.view(mx.uint8)) for one in results]
            mx.async_eval(pieces)
        pending.append((item, pieces, [one.dtype for one in results]))
        if len(pending) > len(streams):
            _write(writer, *pending.popleft())
        if progress:
            progress(item.sources[0], size)
    while pending:
        _write(writer, *pending.popleft())
    mx.clear_cache()


def _streams() -> list[mx.Stream]:
    """This thread's streams. MLX never frees a stream and does not share it between threads."""
    if not hasattr(_of_this_thread, "streams"):
        _of_this_thread.streams = [mx.new_stream(mx.default_device()) for _ in range(AHEAD)]
    return _of_this_thread.streams  # type: ignore[no-any-return]


def _chunks(items: Sequence[Item], sources: Mapping[str, Stored]) -> Iterator[tuple[Item, int, list[mx.array], int]]:
    """The rows of every item, in chunks of `CHUNK` bytes: the first row's number, the rows, and the bytes read."""
    with contextlib.ExitStack() as stack:
        buffer = np.empty(max(CHUNK, *(one.row for one in sources.values())), dtype=np.uint8)
        files = {path: stack.enter_context(path.open("rb", buffering=0)) for path in {one.file for one in sources.values()}}
        for item in items:
            named = [(name, sources[name]) for name in item.sources]
            rows, size = named[0][1].shape[0], sum(one.row for _, one in named)
            step = max(1, CHUNK // size // (PARTS if item.change else 1))
            for start in range(0, rows, step):
                count = min(step, rows - start)
                parts = [_read(files[one.file], one, name, start, buffer[: count * one.row]) for name, one in named]
                yield item, start, parts, count * size
            mx.clear_cache()  # the next matrix has buffers of other sizes


def _read(opened: Any, stored: Stored, name: str, start: int, raw: NDArray[np.uint8]) -> mx.array:
    """The rows from `start` on that fit in `raw`, as an MLX array."""
    try:
        opened.seek(stored.offset + start * stored.row)
        done = 0
        while done < raw.nbytes:
            got = opened.readinto(raw[done:])
            if not got:
                raise CheckpointError(f"{stored.file}: ends before the weight {name}; download the file again")
            done += got
    except OSError as error:
        raise CheckpointError(f"{stored.file}: cannot be read ({error.strerror or error})") from None
    if not all_finite(raw, stored.dtype):
        raise CheckpointError(f"{stored.file}: the weight {name} holds infinities or NaNs; download the file again")
    return from_numpy(raw).view(stored.dtype).reshape(-1, *stored.shape[1:])


def _write(writer: ShardWriter, item: Item, pieces: list[mx.array], dtypes: list[mx.Dtype]) -> None:
    for name, piece, dtype in zip(item.results, pieces, dtypes, strict=True):
        view = memoryview(piece)  # type: ignore[arg-type]  # waits for the result; copies nothing
        if not all_finite(np.frombuffer(view, dtype=np.uint8), dtype):
            kind = str(dtype).removeprefix("mlx.core.")
            raise ConvertError(f"{item.sources[0]}: too large for {kind}; use a wider dtype (--dtype bfloat16 or float32)")
        writer.write(name, view)


def all_finite(raw: NDArray[np.uint8], dtype: mx.Dtype) -> bool:
    """Whether these bytes hold no infinity and no NaN. Integers never do."""
    if dtype not in EXPONENT:
        return True
    kind, largest = EXPONENT[dtype]
    numbers = raw.view(kind)
    buffer = np.empty(min(numbers.size, 1 << 17), dtype=kind)  # small enough to stay in the processor's cache
    for start in range(0, numbers.size, max(1, buffer.size)):
        part = numbers[start : start + buffer.size]
        if np.left_shift(part, 1, out=buffer[: part.size]).max() >= largest:
            return False
    return True
