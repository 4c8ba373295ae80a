"""Read and write safetensors shards in pieces.

MLX and the safetensors library hold a whole shard (5 GB) in memory to write it. A conversion must not.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32", mx.uint8: "U8"}


class ShardWriter:
    """Writes weights into shards, each in any number of pieces.

    The header is written last, so nothing loads an unfinished shard.

    Args:
        shards: the weights of each file; only their shapes and dtypes are read.
        metadata: the metadata of each file.
    """

    def __init__(self, folder: Path, shards: Mapping[str, Mapping[str, mx.array]], metadata: Mapping[str, str]):
        self._headers: dict[int, bytes] = {}
        self._places: dict[str, tuple[int, int, int]] = {}  # name -> file, next byte, end
        try:
            for file, weights in shards.items():
                self._open(folder / file, weights, metadata)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, weights: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
        # Wide dtypes first, as the safetensors library does: every tensor is then aligned.
        ordered = sorted(weights.items(), key=lambda item: -item[1].dtype.size)
        entries: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        for name, value in ordered:
            entries[name] = {"dtype": NAMES[value.dtype], "shape": value.shape, "data_offsets": [end, end + value.nbytes]}
            end += value.nbytes
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        self._headers[file] = len(text).to_bytes(8, "little") + text
        start = len(self._headers[file])
        for name, value in ordered:
            offset = start + entries[name]["data_offsets"][0]
            self._places[name] = (file, offset, offset + value.nbytes)

    def write(self, name: str, piece: memoryview) -> None:
        """Append bytes to a weight."""
        file, offset, end = self._places[name]
        if offset + piece.nbytes > end:
            raise ValueError(f"{name}: {offset + piece.nbytes - end} bytes too many")
        _write_all(file, piece, offset)
        self._places[name] = (file, offset + piece.nbytes, end)

    def finish(self) -> None:
        """Write the headers. Raises `ValueError` if a weight is incomplete."""
        if short := [name for name, (_, offset, end) in self._places.items() if offset != end]:
            raise ValueError(f"{short[0]}: not all of its bytes were written")
        for file, header in self._headers.items():
            _write_all(file, memoryview(header), 0)

    def close(self) -> None:
        while self._headers:
            os.close(self._headers.popitem()[0])


def _write_all(file: int, piece: memoryview, offset: int) -> None:
    piece = piece.cast("B")
    while piece:
        written = os.pwrite(file, piece, offset)
        piece, offset = piece[written:], offset + written
