"""Objects of the other process, and what can be done with them.

Comparisons and arithmetic of a `Remote` with a plain value are not passed on: they would tell an answer what its tests expect,
and an object that equals everything would pass them. So such an object equals no plain value, unless it is a list, a set or
a dict by inheritance; then its content is compared here.
"""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .wire import Wire

CONTAINERS = (list, dict, set)
NAMES = ("__name__", "__qualname__", "__dict__", "__annotations__", "__defaults__")


class Remote:
    """An object of the other process."""

    __slots__ = ("_number", "_wire")
    _number: int
    _wire: "Wire"

    def __init__(self, wire: "Wire", number: int):
        object.__setattr__(self, "_wire", wire)
        object.__setattr__(self, "_number", number)

    def __eq__(self, other: object) -> Any:
        if type(other) is Remote:
            return self._wire.request("__eq__", self, other)
        content = self._wire.request("content", self)
        return NotImplemented if content is None else content == other

    def __getattr__(self, name: str) -> Any:
        # What libraries look for, such as the address of an array, is not the answer's to say.
        if name.startswith("__") and name not in NAMES:
            raise AttributeError(name)
        return self._wire.request("__getattr__", self, name)

    def __hash__(self) -> int:
        return hash(self._number)

    def __exit__(self, *error: object) -> Any:
        return self._wire.request("__exit__", self)


def _passed_on(name: str, *, between_remotes: bool = False) -> Callable[..., Any]:
    def method(self: Remote, *args: Any, **options: Any) -> Any:
        if between_remotes and type(args[0]) is not Remote:
            return NotImplemented
        return self._wire.request(name, self, *args, **options)

    return method


def _content(value: Any) -> Any:
    """A copy of a list, dict or set of a class of its own."""
    return next((base(value) for base in CONTAINERS if isinstance(value, base)), None)


def _awaited(coroutine: Any) -> Any:
    import asyncio  # which takes longer to import than all the rest

    return asyncio.run(coroutine)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "__call__": lambda function, *args, **options: function(*args, **options),
    "__getattr__": getattr,
    "__setattr__": setattr,
    "__delattr__": delattr,
    "__instancecheck__": lambda kind, value: isinstance(value, kind),
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__bool__": bool,
    "__str__": str,
    "__repr__": repr,
    "__int__": int,
    "__float__": float,
    "__enter__": lambda value: type(value).__enter__(value),
    **{
        name: getattr(operator, name) for name in ("__getitem__", "__setitem__", "__delitem__", "__index__", "__abs__", "__neg__")
    },
}
BETWEEN_REMOTES = ("lt", "le", "gt", "ge", "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
for _name in OPERATIONS.keys() - {"__getattr__"}:
    setattr(Remote, _name, _passed_on(_name))
for _name in BETWEEN_REMOTES:
    OPERATIONS[f"__{_name}__"] = getattr(operator, f"__{_name}__")
    setattr(Remote, f"__{_name}__", _passed_on(f"__{_name}__", between_remotes=True))
OPERATIONS |= {"__eq__": operator.eq, "content": _content, "await": _awaited}
OPERATIONS["__exit__"] = lambda value: type(value).__exit__(value, None, None, None)
ATTRIBUTES = ("__getattr__", "__setattr__", "__delattr__")
