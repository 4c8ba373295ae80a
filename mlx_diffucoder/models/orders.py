"""The calls of a network that several processes compute, as rank 0 sends them to the others.

Each rank keeps the keys and values of its own forwards. They have numbers, equal on all ranks, by which a call names them.
"""

import weakref
from collections.abc import Collection, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ..arrays import from_numpy
from ..errors import ConfigError


class Numbers:
    """Numbers for arrays that each rank has a part of: keys and values. They are equal on all ranks.

    Args:
        keep: hold the arrays, until rank 0 says that it has dropped them.
    """

    def __init__(self, *, keep: bool):
        self._keep, self._next, self._dropped = keep, 0, list[int]()
        self._number: dict[int, int] = {}  # by the identity of an array
        self._held: dict[int, Any] = {}  # by number: the array, or a weak reference

    def give(self, kv: Any) -> None:
        """Number what a cache, or a list of K/V, has now, in the order of its attributes."""
        for array in _floats(kv):
            if id(array) not in self._number:
                self._number[id(array)] = self._next
                self._held[self._next] = array if self._keep else weakref.ref(array, self._forgetting(id(array)))
                self._next += 1

    def _forgetting(self, identity: int) -> Any:
        def forget(_: Any) -> None:
            number = self._number.pop(identity)
            del self._held[number]
            self._dropped.append(number)

        return forget

    def of(self, array: mx.array) -> int | None:
        """The number of an array."""
        return self._number.get(id(array))

    def array(self, number: int) -> mx.array:
        """The array of a number, on a rank that keeps them."""
        return self._held[number]

    def dropped(self) -> list[int]:
        """The numbers whose arrays rank 0 has dropped since the last call."""
        found, self._dropped = self._dropped, []
        return found

    def drop(self, numbers: Collection[int]) -> None:
        """Let go of arrays, on a rank that keeps them."""
        for number in numbers:
            del self._number[id(self._held.pop(number))]


def _floats(value: Any) -> Iterator[mx.array]:
    if isinstance(value, mx.array):
        if mx.issubdtype(value.dtype, mx.floating) and value.size:
            yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _floats(one)
    elif hasattr(value, "__dict__"):
        for one in vars(value).values():
            yield from _floats(one)


def packed(value: Any, numbers: Numbers, arrays: list[bytes]) -> Any:
    """A call's argument, ready for JSON; `arrays` gets the bytes of arrays that other ranks do not have."""
    if isinstance(value, mx.array):
        if (number := numbers.of(value)) is not None:
            return {"number": number}
        if value.size and mx.issubdtype(value.dtype, mx.floating):
            raise ConfigError("--shard: K/V that were moved cannot be used; choose another window", field="--shard")
        arrays.append(np.array(value).tobytes())
        return {"array": [name_of(value.dtype), value.shape]}
    if isinstance(value, list | tuple):
        return [packed(one, numbers, arrays) for one in value]
    if hasattr(value, "__dict__"):
        return {"object": [type(value).__name__, {name: packed(one, numbers, arrays) for name, one in vars(value).items()}]}
    return value


class Unpacker:
    """The opposite of `packed`, on another rank."""

    def __init__(self, numbers: Numbers, arrays: bytes, kinds: dict[str, type]):
        self._numbers, self._arrays, self._kinds, self._at = numbers, arrays, kinds, 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "number" in value:
            return self._numbers.array(value["number"])
        if "array" in value:
            name, shape = value["array"]
            kind = np.dtype(name.rstrip("_"))
            count = int(np.prod(shape))
            found = np.frombuffer(self._arrays, kind, count, self._at)
            self._at += count * kind.itemsize
            return from_numpy(found.reshape(shape))
        name, state = value["object"]
        made: Any = object.__new__(self._kinds[name])
        vars(made).update({key: self(one) for key, one in state.items()})
        return made


def name_of(kind: mx.Dtype) -> str:
    """The name of a type in `mlx.core`."""
    return str(kind).rpartition(".")[2]
