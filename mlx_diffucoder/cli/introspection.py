"""The verbs and their flags, as the functions behind them declare them."""

import inspect
import math
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo, TyperInfo

Verb = tuple[str, ...]
"""Its words: `("generate",)`, `("config", "list")`."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Flag:
    """One flag of a verb.

    Attributes:
        parameter: the function's name for it.
        names: as they are typed, `--max-tokens`.
        kind: bool, int, float, str or Path.
        many: whether it can be given more than once.
        info: what typer was told.
        default: the function's.
    """

    parameter: str
    names: tuple[str, ...]
    kind: type
    many: bool
    info: OptionInfo
    default: Any

    @property
    def key(self) -> str:
        """Its name in a file: `max_tokens`."""
        return next((name for name in self.names if name.startswith("--")), self.names[0]).lstrip("-").replace("-", "_")

    @property
    def kind_in_words(self) -> str:
        return KINDS.get(self.kind, "text")

    @property
    def wanted(self) -> str:
        """What it takes, in words."""
        low, high = self.info.min, self.info.max
        ends = [f"at {which} {end:g}" for which, end in (("least", low), ("most", high)) if end is not None]
        words = " and ".join([self.kind_in_words, *ends])
        return f"a list, each {words}" if self.many else words

    def takes(self, value: Any) -> bool:
        """Whether a value, as TOML has it, is of its kind and within its ends."""
        if self.many:
            return isinstance(value, list) and all(self._takes_one(one) for one in value)
        return self._takes_one(value)

    def _takes_one(self, value: Any) -> bool:
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind not in (int, float):
            return isinstance(value, str)
        if not isinstance(value, int if self.kind is int else (int, float)):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        low, high = self.info.min, self.info.max
        return (low is None or value >= low) and (high is None or value <= high)

    def read(self, words: Sequence[str]) -> Any:
        """The value that words spell; where they spell none of its kind, the words themselves."""
        values: list[Any] = list(words)
        with suppress(KeyError, ValueError):
            if self.kind is bool:
                values = [WORDS[word.lower()] for word in words]
            elif self.kind in (int, float):
                values = [self.kind(word) for word in words]
        return values if self.many else values[0] if len(values) == 1 else " ".join(words)


def flags_of(function: Callable[..., Any]) -> list[Flag]:
    """The flags that a verb's function declares, in its order; arguments are none."""
    found = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if isinstance(info := _info(parameter.annotation), OptionInfo):
            kind, many = _kind(get_args(parameter.annotation)[0])
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            found.append(Flag(name, _names(name, info, kind), kind, many, info, default))
    return found


def arguments_of(function: Callable[..., Any]) -> list[tuple[str, ArgumentInfo]]:
    """A verb's arguments as a usage line has them, `[prompts]...`, and what typer was told of each."""
    found = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if isinstance(info := _info(parameter.annotation), ArgumentInfo):
            shown = info.metavar or name
            shown = shown if parameter.default is inspect.Parameter.empty else f"[{shown}]"
            found.append((shown + "..." * _kind(get_args(parameter.annotation)[0])[1], info))
    return found


def verbs_of(app: typer.Typer, above: Verb = ()) -> Iterator[tuple[Verb, CommandInfo | TyperInfo]]:
    """Every verb, those of a group behind the group's own function, where it has one."""
    for command in app.registered_commands:
        if command.callback is not None:
            yield (*above, _name(command.name) or command.callback.__name__.replace("_", "-")), command
    for group in app.registered_groups:
        inner = group.typer_instance
        if inner is None:
            continue
        name = (*above, _name(group.name) or _name(inner.info.name) or "")
        if inner.registered_callback is not None and inner.registered_callback.callback is not None:
            yield name, inner.registered_callback
        yield from verbs_of(inner, name)


def _name(given: Any) -> str | None:
    """typer stands a value that nobody gave in a box."""
    return getattr(given, "value", given)


def _info(annotation: Any) -> Any:
    if get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, OptionInfo | ArgumentInfo)), None)


def _names(parameter: str, info: OptionInfo, kind: type) -> tuple[str, ...]:
    """`--by-layer/--whole` are two. In an annotation typer takes the first name for a default."""
    given = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    declared = tuple(half for name in given for half in name.split("/") if half.startswith("-"))
    bare = parameter.replace("_", "-")
    return declared or (("--" + bare, "--no-" + bare) if kind is bool else ("--" + bare,))


def _kind(annotation: Any) -> tuple[type, bool]:
    """`list[int] | None` -> `(int, True)`."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    return annotation, False
