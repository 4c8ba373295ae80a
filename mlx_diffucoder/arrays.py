"""NumPy's arrays as MLX's."""

from typing import Any

import mlx.core as mx
from numpy.typing import NDArray


def from_numpy(array: NDArray[Any]) -> mx.array:
    """`mx.array(array)`: a copy with its shape and type (float32 for float64).

    It goes through the buffer protocol. Of an array itself MLX asks DLPack, and clears what is raised meanwhile: a Ctrl-C that
    arrives there is lost.
    """
    buffer: Any = array.data
    return mx.array(buffer)
