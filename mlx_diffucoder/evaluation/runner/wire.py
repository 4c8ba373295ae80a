"""Calls between the process of an answer and the process of its tests.

Plain values travel as copies, and lists, sets and dicts that a call changed are changed for the caller too. Any other object
stays in its process. The other one gets a `Remote`, which passes on what is done with it. Reading a message calls nothing
but what `KNOWN` and `Wire` list, so neither side can make the other run code by it.
"""

import builtins
import io
import os
import pickle
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any, NoReturn

from .remote import ATTRIBUTES, OPERATIONS, Remote

TESTS = "tests"
LARGEST = 2**28  # bytes of a message
KNOWN = {
    "builtins": {"bytearray", "complex", "range", "slice", "frozenset", "set", "list", "dict", "tuple", "int", "float"}
    | {"str", "bytes", "bool"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
}
"""Types whose values travel as copies."""
FROZEN = (int, float, complex, str, bytes, tuple, frozenset)
MODULES = sys.stdlib_module_names - {"__main__"} | {"numpy"}


class Gone(BaseException):
    """The other process has ended, or sent what is no message."""


def made(kind: str, *parts: Any) -> NoReturn:
    """What stands in a message for `Wire._make`."""
    raise NotImplementedError


class Wire:
    """One end of the connection.

    Args:
        incoming, outgoing: file descriptors of pipes.
        ours: the name of the module whose objects the other side may use; None if it may use all. Functions and iterators may
            be called in any case, but have no attributes for the other side: those of Python lead everywhere.
    """

    def __init__(self, incoming: int, outgoing: int, *, ours: str | None = None):
        self._incoming, self._outgoing, self._ours = open(incoming, "rb"), outgoing, ours  # noqa: SIM115
        self._numbers = dict[int, int]()  # id of an object of this process -> its number
        self._objects = list[Any]()
        self._made = dict[tuple[str, int], Any]()
        self._origins = dict[int, int]()  # id of a value made here of an object of the other process -> its number there
        self._gone = False
        self._no_memory = self._message(("raised", MemoryError()))  # made now: later there may be no memory for it

    def request(self, operation: str, *args: Any, **options: Any) -> Any:
        """What an operation on objects of the other process gives. Raises what it raises there, or `Gone`."""
        self._write(self._message(("do", operation, args, options)))
        value, after = self.wait()
        for mine, changed in zip(args, after, strict=False):
            _change(mine, changed)
        return value

    def wait(self) -> Any:
        """The next reply. Meanwhile the other side may use objects of this one."""
        while True:
            kind, *parts = self._receive()
            if kind == "do":
                self._do(*parts)
            elif kind == "raised":
                raise parts[0]
            else:
                return parts[0]

    def serve(self) -> None:
        """Do what the other side asks for until it is gone."""
        with suppress(Gone):
            while True:
                self.wait()

    def reply(self, work: Callable[[], Any]) -> None:
        """Send what a function returns or raises."""
        try:
            message = self._message(("returned", work()))
        except Gone:
            raise
        except MemoryError:
            message = self._no_memory
        except BaseException as error:
            try:
                message = self._message(("raised", error))
            except Exception:  # its arguments cannot travel
                message = self._message(("raised", RuntimeError(type(error).__name__)))
        self._write(message)

    def _do(self, operation: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        def work() -> Any:
            if self._ours is not None:
                self._check(operation, args)
            value = OPERATIONS[operation](*args, **options)
            return value, args if operation == "__call__" else ()

        self.reply(work)

    def _check(self, operation: str, args: tuple[Any, ...]) -> None:
        """Raise `TypeError` unless the other side may do this with an object of this one."""
        target = args[0]
        attribute = args[1] if operation in ATTRIBUTES else ""
        if id(target) not in self._numbers or (attribute and not self._own(type(target))) or str(attribute).startswith("_"):
            raise TypeError(f"{operation} of a {type(target).__name__} is not for an answer")

    def _own(self, kind: type) -> bool:
        return kind.__module__ == self._ours

    def _message(self, parts: tuple[Any, ...]) -> bytes:
        file = io.BytesIO()
        _Writer(file, self).dump(parts)
        return len(file.getbuffer()).to_bytes(8) + file.getbuffer()

    def _write(self, message: bytes) -> None:
        data = memoryview(message if not self._gone else b"")
        try:
            while data:
                data = data[os.write(self._outgoing, data) :]
        except OSError:
            self._gone = True
        if self._gone:
            raise Gone

    def _receive(self) -> Any:
        try:
            size = int.from_bytes(self._incoming.read(8) or b"\xff" * 8)
            data = self._incoming.read(size) if size <= LARGEST else b""
            message = _Reader(io.BytesIO(data), self).load()
            if type(message) is tuple and message:
                return message
        except MemoryError:
            raise
        except Exception:  # bytes that are no message can raise anything, and all of it means the same
            pass
        self._gone = True
        raise Gone

    def reduce(self, value: Any) -> Any:
        """How a value travels, for pickle."""
        kind = type(value)
        if kind is Remote:
            return made, ("yours", value._number)
        if id(value) in self._origins:
            return made, ("yours", self._origins[id(value)])
        if value is made or _known(kind) or (issubclass(kind, type) and _known(value)):
            return NotImplemented
        if kind is types.ModuleType and value.__name__.partition(".")[0] in MODULES:
            return made, ("module", value.__name__)
        if issubclass(kind, BaseException):
            return made, ("error", kind, value.args)
        if kind.__module__ == "numpy" and "numpy" in sys.modules:
            numpy = sys.modules["numpy"]
            if issubclass(kind, numpy.generic):
                return made, ("value", value.item())
            if kind is numpy.ndarray and not value.dtype.hasobject:
                return made, ("array", value.dtype.str, value.shape, value.tobytes())
        number = self._number(value)
        if issubclass(kind, type) and issubclass(value, BaseException):
            base = next(one for one in value.__mro__ if one.__module__ == "builtins")
            return made, ("exception", number, value.__name__, base)
        if kind is types.CoroutineType:
            return made, ("coroutine", number)
        for base in FROZEN:
            if issubclass(kind, base):
                return made, ("frozen", number, base.__str__(value) if base is str else base(value))
        return made, ("remote", number)

    def _number(self, value: Any) -> int:
        """The number of an object of this process, by which the other one names it."""
        if id(value) not in self._numbers:
            kind, called = type(value), types.FunctionType | types.BuiltinFunctionType | types.MethodType
            own = self._own(kind) or (isinstance(value, type) and self._own(value)) or hasattr(kind, "__next__")
            if not (self._ours is None or own or isinstance(value, called)):
                raise TypeError(f"a {kind.__name__} of the tests cannot be given to an answer")
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def _make(self, kind: str, *parts: Any) -> Any:
        """What a part of a message stands for."""
        first = parts[0]
        if kind == "yours":
            return self._objects[first]
        if kind == "value":
            return first
        if kind == "error":
            return _error(first, parts[1])
        if kind == "module":
            return resolve_name(first) if first.partition(".")[0] in MODULES else Remote(self, -1)
        if kind == "array":
            import numpy

            return numpy.frombuffer(parts[2], numpy.dtype(first)).reshape(parts[1]).copy()
        if (kind, first) not in self._made:
            self._made[kind, first] = value = self._mirror(kind, *parts)
            if kind != "remote":
                self._origins[id(value)] = first
        return self._made[kind, first]

    def _mirror(self, kind: str, number: int, *parts: Any) -> Any:
        """What stands here for an object of the other process."""
        mirrored = Remote(self, number)
        if kind == "remote":
            return mirrored
        if kind == "coroutine":

            async def waiting() -> Any:
                return self.request("await", mirrored)

            return waiting()
        if kind == "exception" and issubclass(parts[1], BaseException):
            return type(parts[0], (parts[1],), {})
        base = next(base for base in FROZEN if type(parts[0]) is base)
        frozen = type(base.__name__, (base,), {"__getattr__": lambda _, name: getattr(mirrored, name)})
        return frozen(parts[0])


def _known(kind: type) -> bool:
    if kind.__module__ == "builtins" and issubclass(kind, BaseException):
        return True
    return kind.__qualname__ in KNOWN.get(kind.__module__, ())


def _error(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    try:
        return kind(*args)
    except Exception:
        return Exception(*args)


def _change(mine: Any, changed: Any) -> None:
    """Give a list, set or dict the content that it has after a call."""
    if type(mine) is not type(changed) or type(mine) not in (list, set, dict, bytearray) or mine == changed:
        return
    if isinstance(mine, list | bytearray):
        mine[:] = changed
    else:
        mine.clear()
        mine.update(changed)


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, wire: Wire):
        super().__init__(file, protocol=5)
        self._wire = wire

    def reducer_override(self, value: Any) -> Any:
        return self._wire.reduce(value)


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, wire: Wire):
        super().__init__(file)
        self._wire = wire

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, "made"):
            return self._wire._make
        if name in KNOWN.get(module, ()):
            return resolve_name(f"{module}:{name}")
        found = getattr(builtins, name, None)
        if module == "builtins" and isinstance(found, type) and issubclass(found, BaseException):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")
