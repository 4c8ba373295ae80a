"""What every command has: examples below its help, the user's defaults, `--quiet`; and the tree of all commands."""

import inspect
import math
import os
import types
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand, TyperGroup

from ..errors import ConfigError, DiffucoderError, PromptError
from ..ranks import is_follower
from .terminal import fail, note

Words = tuple[str, ...]
"""A command's name: `("generate",)`, `("config", "list")`."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
TYPES: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float)}
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

TEXT = "\0"
"""Marks an argument that is text while the parser reads it: no argument can begin with it."""
RENAMED = {"temperature": "--temp", "ban_tokens": "--ban-token"}
"""Fields of `GenerationConfig` whose options have a name of their own."""


class Command(TyperCommand):
    """A command that runs with the user's defaults. Pass it to Typer as `cls`.

    It refuses to run with a default that cannot work, it keeps stderr silent when `--quiet` is given, and when the command
    fails because of a default it names the file or variable that sets it.
    """

    def __init__(self, *args: Any, help: str | None = None, **more: Any) -> None:
        super().__init__(*args, help=unwrapped(help), **more)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; one that begins with a dash but is no option, as a Markdown list does, is text."""
        names = {name for one in self.get_params(ctx) for name in (*one.opts, *one.secondary_opts)}
        left = super().parse_args(ctx, [TEXT + arg if _is_text(arg, names) else arg for arg in args])
        ctx.params = {name: _unmarked(value) for name, value in ctx.params.items()}
        return left

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises `SettingsError` when a default that concerns it is wrong."""
        with using_settings(ctx):
            if ctx.params.get("shard") and is_follower():
                from .shard import follow

                return follow(ctx.params)
            return super().invoke(ctx)


def _is_text(arg: str, names: Collection[str]) -> bool:
    """Whether it begins with a dash, and no option's name or name and value begin like this."""
    word, *rest = arg.split(maxsplit=1) if arg.startswith("-") else [""]
    return bool(rest) and "=" not in word and word not in names and (word.startswith("--") or word[:2] not in names)


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(one) for one in value]
    if isinstance(value, Path):
        return Path(_unmarked(str(value)))
    return value.removeprefix(TEXT) if isinstance(value, str) else value


class Group(TyperGroup):
    """As `Command`, for a group that does something by itself."""

    def __init__(self, *args: Any, help: str | None = None, **more: Any) -> None:
        super().__init__(*args, help=unwrapped(help), **more)

    def invoke(self, ctx: Any) -> Any:
        """Run the group, or the command below it, which uses the settings itself."""
        below = ctx._protected_args if hasattr(ctx, "_protected_args") else ctx.protected_args
        with nullcontext() if below else using_settings(ctx):
            return super().invoke(ctx)


def unwrapped(help: str | None) -> str:
    """A docstring with each paragraph as one line: Typer keeps the line breaks of all but the first."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(help or "").split("\n\n"))


@contextmanager
def using_settings(context: Any) -> Iterator[None]:
    """What every command does with the user's settings; see `Command`."""
    settings = context.find_root().obj
    if settings is None:  # not started by `app.run`
        yield
        return
    settings.check(words_of(context))
    with ExitStack() as stack:
        if context.params.get("quiet"):  # errors are still shown: `terminal.fail` writes to the original stream
            stack.enter_context(redirect_stderr(stack.enter_context(Path(os.devnull).open("w"))))
        for line in settings.strays:
            note(line)
        try:
            yield
        except DiffucoderError as error:
            raise settings.blamed(error, context) from None


def refuse_options(context: Any) -> None:
    """Raise `ConfigError` for an option of a group that is given before a command of the group."""
    for option in options_of(context.command):
        if context.get_parameter_source(option.parameter).name == "COMMANDLINE":
            name = option.names[0]
            raise ConfigError(f"{name} is not for {context.command_path} {context.invoked_subcommand}", field=name)


def examples(*lines: str) -> str:
    """The `epilog` of a command: command lines that a reader can copy, one a line."""
    shown = [line.replace("[", "\\[") for line in lines]  # brackets are markup
    # Blank lines between: Typer's releases treat single line breaks differently.
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *shown])


def examples_of(command: Any) -> list[str]:
    """The command lines that `examples` put below a command's help."""
    return [line.replace("\\[", "[") for line in (command.epilog or "").split("\n\n") if line.startswith(("diffucode ", "cat "))]


def words_of(context: Any) -> Words:
    """The command that a context runs."""
    return () if context.parent is None else (*words_of(context.parent), str(context.info_name))


def commands_of(group: Any, above: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Every command below a group that can be run by itself, in the order of the help."""
    for name, command in group.commands.items():
        words = (*above, name)
        if not hasattr(command, "commands") or command.invoke_without_command:
            yield words, command
        if hasattr(command, "commands"):
            yield from commands_of(command, words)


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        parameter: the function's name for it.
        names: as the user types them, `--max-tokens`.
        kind: bool, int, float, str or Path.
        many: whether it can be given more than once.
        low, high: bounds of a number.
        default: the value when nobody sets one.
    """

    parameter: str
    names: tuple[str, ...]
    kind: type
    many: bool
    low: float | None
    high: float | None
    default: Any

    @property
    def key(self) -> str:
        """Its name in the configuration file: `max_tokens`."""
        return next((name for name in self.names if name.startswith("--")), self.names[0]).lstrip("-").replace("-", "_")

    @property
    def wanted(self) -> str:
        """What it takes, in words."""
        ends = [f"at {which} {end:g}" for which, end in (("least", self.low), ("most", self.high)) if end is not None]
        words = " and ".join([KINDS.get(self.kind, "text"), *ends])
        return f"a list, each {words}" if self.many else words

    def takes(self, value: Any) -> bool:
        """Whether a value from TOML has the right type and is within the bounds."""
        if self.many:
            return isinstance(value, list) and all(self._takes_one(one) for one in value)
        return self._takes_one(value)

    def _takes_one(self, value: Any) -> bool:
        if type(value) not in TYPES.get(self.kind, (str,)) or (isinstance(value, float) and not math.isfinite(value)):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def read(self, words: Sequence[str]) -> Any:
        """The value that words spell; the words themselves when they do not spell one."""
        values: list[Any] = list(words)
        with suppress(KeyError, ValueError):
            if self.kind is bool:
                values = [WORDS[word.lower()] for word in words]
            elif self.kind in (int, float):
                values = [self.kind(word) for word in words]
        return values if self.many else values[0] if len(values) == 1 else " ".join(words)


def options_of(command: Any) -> list[Option]:
    """A command's options, in the order of its help. Arguments are left out."""
    kinds = get_type_hints(command.callback) if command.callback else {}
    found = []
    for one in command.params:
        if one.param_type_name == "option" and one.name in kinds:
            kind, many = _kind(kinds[one.name])
            names = (*one.opts, *one.secondary_opts)
            found.append(Option(one.name, names, kind, many, _bound(one, "min"), _bound(one, "max"), one.default))
    return found


def with_option(error: DiffucoderError) -> str:
    """The error's message, with the option in place of the field that it begins with."""
    message = str(error)
    if error.field is None or error.field.startswith("-") or not message.startswith(error.field):
        return message
    option = RENAMED.get(error.field) or "--" + error.field.replace("_", "-")
    return option + message.removeprefix(error.field)


def is_usage(error: DiffucoderError) -> bool:
    """Whether an option is wrong by itself. Of a prompt, or a setting, that cannot work, only the run has failed."""
    return error.field is not None and not isinstance(error, PromptError)


def print_error(error: DiffucoderError) -> int:
    """As `fail`, with the option in place of the field that an error names. The code is 2 where an option is wrong."""
    return fail(with_option(error), 2 if is_usage(error) else 1)


def _kind(annotation: Any) -> tuple[type, bool]:
    """`list[int] | None` -> `(int, True)`."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    return annotation, False


def _bound(option: Any, end: str) -> float | None:
    """Typer's releases keep it at the option or at its type."""
    found = getattr(option, end, None)
    return getattr(getattr(option, "type", None), end, None) if found is None else found
