"""The user's defaults: read from variables and from a file, checked, each with where it comes from.

The command line overrides a variable, and a variable overrides the file.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import typer

from ..config import GenerationConfig
from ..errors import ConfigError, DiffucoderError, SettingsError, did_you_mean, one_of
from ..file_kinds import read_bytes
from .command import Option, Words, commands_of, options_of, with_option, words_of

CONFIG = "DIFFUCODE_CONFIG"
PREFIX = "DIFFUCODE_"
OTHER_VARIABLES = (
    CONFIG,
    "DIFFUCODE_API_KEY",
    "DIFFUCODE_CONVERSIONS",
    "DIFFUCODE_DEBUG",
    "DIFFUCODE_NO_WIRED_MEMORY",
    "DIFFUCODE_PROFILES",
)
"""Variables that set no default."""
OWN = "config"
"""The command that has no defaults: it must work when the others have wrong ones."""
GLOBAL = ("model", "yes", "quiet")
"""Keys that can be set for all commands together, for the option means the same in each."""
NEVER = {"allow_code_execution": "you agree to run code on the command line, each time"}
DTYPES = ("float32", "float16", "bfloat16")
SCHEDULE = ("steps", "alg_temp", "eps", "reference")
DECODING = {
    "preset": ("rule", "window", *SCHEDULE),
    "rule": SCHEDULE,
    **dict.fromkeys(SCHEDULE, ("preset", "rule")),
    "reference": ("preset", "rule", "window"),
}
"""What a parameter overrides that was set further from the user: the two do not go together."""

Key = tuple[str, ...]
"""`("generate", "max_tokens")`, `("model",)`."""


def config_path() -> Path:
    """The configuration file, whether it exists or not."""
    if named := os.environ.get(CONFIG):
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("diffucode", appauthor=False) / "config.toml"


def read_file(path: Path) -> dict[str, Any]:
    """The content of a configuration file; empty when there is none. Raises `SettingsError`."""
    import tomllib

    try:
        return tomllib.loads(read_bytes(path, SettingsError, missing=b"").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML ({error}); repair it with: diffucode config edit") from None


def variable_of(key: Key) -> str:
    """`DIFFUCODE_GENERATE_MAX_TOKENS`."""
    return PREFIX + "_".join(key).upper().replace("-", "_")


class Schema:
    """Which keys there are, and what each takes.

    Args:
        command: the whole command line, as `typer.main.get_command` makes it.
    """

    def __init__(self, command: Any):
        self._command = command

    @cached_property
    def options(self) -> dict[Key, Option]:
        """The option that each key sets."""
        commands = [(words, command) for words, command in commands_of(self._command) if words[0] != OWN]
        every = [(words, option) for words, command in commands for option in options_of(command)]
        for_all: dict[Key, Option] = {(option.key,): option for _, option in every if option.key in GLOBAL}
        return {**for_all, **{(*words, option.key): option for words, option in every}}

    @cached_property
    def tables(self) -> set[Key]:
        """The tables of the file: commands, and groups of commands."""
        return {key[:end] for key in self.options for end in range(1, len(key))}

    @cached_property
    def moved(self) -> dict[Key, Key]:
        """Keys of commands that became groups, and what they are now: `bench.trials` is `bench.run.trials`."""
        moved: dict[Key, Key] = {}
        for key in self.options:
            if len(key) > 2 and (old := (key[0], key[-1])) not in self.options:
                moved.setdefault(old, key)
        return moved

    def spelt(self, words: Iterable[str]) -> Key:
        """The key with underscores, as a user may have written it with hyphens."""
        *table, last = words
        return (*table, last if (*table, last) in self.tables else last.replace("-", "_"))

    def flat(self, table: Mapping[str, Any], above: Key = ()) -> dict[Key, Any]:
        """Every key of a configuration file, and its value."""
        found: dict[Key, Any] = {}
        for word, value in table.items():
            if isinstance(value, dict) and (*above, word) in self.tables:
                found |= self.flat(value, (*above, word))
            else:
                found[self.spelt((*above, word))] = value
        return found

    def check(self, key: Key, value: Any) -> Any:
        """The value. Raises `SettingsError` when the key cannot have it."""
        name, option = ".".join(key), self.option(key)
        if option.key in NEVER:
            raise SettingsError(f"{name}: cannot have a default: {NEVER[option.key]}")
        if not option.takes(value):
            raise SettingsError(f"{name} must be {option.wanted}, not {value!r}")
        try:
            _check_decoding(option.parameter, value)
        except ConfigError as error:
            raise SettingsError(name + str(error).removeprefix(str(error.field))) from None
        return value

    def option(self, key: Key) -> Option:
        """The option that a key sets. Raises `SettingsError` when there is no such key."""
        if key in self.options:
            return self.options[key]
        if key in self.moved:
            raise SettingsError(f"{'.'.join(key)}: no such key; it is now {'.'.join(self.moved[key])}")
        if key in self.tables:
            raise SettingsError(f"{'.'.join(key)}: is a table of keys, not a key; diffucode config list --all lists them")
        name, others = ".".join(key), [".".join(one) for one in [*self.options, *self.tables] if len(one) == len(key)]
        raise SettingsError(f"{name}: no such key{did_you_mean(name, others) or '; diffucode config list --all lists them'}")


def _check_decoding(parameter: str, value: Any) -> None:
    """Raise `ConfigError` for a value that no command accepts."""
    if parameter in {one.name for one in fields(GenerationConfig)}:
        GenerationConfig(**{parameter: value})
    elif parameter == "preset":
        GenerationConfig.preset(value)
    elif parameter == "dtype" and value not in DTYPES:
        raise ConfigError(f"dtype must be {one_of(DTYPES, value)}", field=parameter)


class Setting(NamedTuple):
    """A value, and the variable or file that sets it."""

    value: Any
    origin: str
    from_file: bool


@dataclass(frozen=True)
class Settings:
    """The user's defaults.

    Attributes:
        schema: the keys there are.
        values: each key that is set.
        problems: what is wrong with a key that is set to an impossible value.
        strays: a line for each `DIFFUCODE_` variable that sets nothing.
    """

    schema: Schema
    values: Mapping[Key, Setting] = field(default_factory=dict)
    problems: Mapping[Key, str] = field(default_factory=dict)
    strays: tuple[str, ...] = ()

    @classmethod
    def of(cls, context: typer.Context) -> "Settings":
        """The settings of a running command line."""
        root = context.find_root()
        return root.obj or cls(Schema(root.command))

    @classmethod
    def read(cls, schema: Schema) -> Self:
        """Read the variables and the file; a variable overrides the file."""
        values: dict[Key, Setting] = {}
        problems: dict[Key, str] = {}
        for key, setting in _found(schema, problems):
            try:
                schema.check(key, setting.value)
                values[key] = setting
                problems.pop(key, None)  # of the value that it overrides
            except SettingsError as error:
                problems[key] = f"{setting.origin}: {error}"
        return cls(schema, values, problems, tuple(_strays(schema)))

    def check(self, words: Words) -> None:
        """Raise `SettingsError` for the first problem that concerns a command."""
        for key, problem in self.problems.items():
            if words[0] != OWN and words[: len(key) - 1] == key[:-1]:
                raise SettingsError(problem)

    def get(self, words: Words, key: str) -> Setting | None:
        """What a command's option is set to. A variable overrides the file, and the command's key the one for all commands."""
        found = [self.values[one] for one in ((*words, key), (key,)) if one in self.values]
        return min(found, key=lambda setting: setting.from_file, default=None)

    def default_map(self) -> dict[str, Any]:
        """The settings as the parser takes them: by command and parameter."""
        tree: dict[str, Any] = {}
        for (*words, key), option in self.schema.options.items() if self.values else ():
            if words and (setting := self.get(tuple(words), key)):
                table = tree
                for word in words:
                    table = table.setdefault(word, {})
                table[option.parameter] = str(Path(setting.value).expanduser()) if option.kind is Path else setting.value
        return tree

    def blamed(self, error: DiffucoderError, context: typer.Context) -> DiffucoderError:
        """The error; when it is about the value of a setting, with the file or variable that sets it."""
        message, words = with_option(error), words_of(context)
        for option in options_of(context.command):
            named = message.startswith(tuple(name + " " for name in option.names))
            if named and _source(context, option.parameter) == "DEFAULT_MAP":
                setting = self.get(words, option.key)
                return SettingsError(f"{setting.origin}: {'.'.join((*words, option.key))}: {message}") if setting else error
        return error

    def chosen(self, context: typer.Context, parameters: Collection[str]) -> set[str]:
        """Those parameters that the user set, without any overridden by another set nearer to the user (`DECODING`)."""
        words, ranks = words_of(context), dict[str, int]()
        for option in options_of(context.command):
            if option.parameter in parameters:
                ranks[option.parameter] = _rank(_source(context, option.parameter), self.get(words, option.key))
        over = {(loser, ranks[name]) for name, losers in DECODING.items() if ranks.get(name) for loser in losers}
        return {name for name, rank in ranks.items() if rank and not any(rank < by for loser, by in over if loser == name)}


def _rank(source: str, setting: Setting | None) -> int:
    """How near to the user a value was set: the command line 3, a variable 2, the file 1, nowhere 0."""
    by_default = 1 if setting is None or setting.from_file else 2
    return {"DEFAULT": 0, "DEFAULT_MAP": by_default, "ENVIRONMENT": 2}.get(source, 3)


def _source(context: typer.Context, parameter: str) -> str:
    source = context.get_parameter_source(parameter)
    return "DEFAULT" if source is None else source.name


def _found(schema: Schema, problems: dict[Key, str]) -> Iterator[tuple[Key, Setting]]:
    """Every key that is set; the file's come first. Invalid TOML is a problem of all keys."""
    path = config_path()
    try:
        for key, value in schema.flat(read_file(path)).items():
            yield key, Setting(value, str(path), True)
    except SettingsError as error:
        problems[()] = str(error)
    for key, option in schema.options.items() if _variables() else ():
        name = variable_of(key)
        if text := os.environ.get(name):
            yield key, Setting(option.read(text.split() if option.many else [text]), name, False)


def _variables() -> list[str]:
    """The variables that are meant to set defaults."""
    return [name for name, text in os.environ.items() if name.startswith(PREFIX) and text and name not in OTHER_VARIABLES]


def _strays(schema: Schema) -> Iterator[str]:
    moved = {variable_of(old): variable_of(new) for old, new in schema.moved.items()}
    for name in _variables():
        if name in moved:
            yield f"{name}: no such variable; it has no effect; it is now {moved[name]}"
            continue
        known = [*map(variable_of, schema.options), *OTHER_VARIABLES]
        if name not in known:
            near = did_you_mean(name.removeprefix(PREFIX), (one.removeprefix(PREFIX) for one in known))
            what = near.replace("'", "'" + PREFIX, 1) or "; diffucode config list --all lists the keys"
            yield f"{name}: no such variable; it has no effect{what}"
