"""Defaults of the user's own: from variables and from a file, checked, and each with where it comes from.

What is asked for on the command line goes before a variable, and a variable before the file.
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
from .completion import DTYPES, METHODS
from .errors import with_flag
from .introspection import Flag, Verb, flags_of, verbs_of

CONFIG = "DIFFUCODE_CONFIG"
PREFIX = "DIFFUCODE_"
OF_ANOTHER_KIND = (CONFIG, "DIFFUCODE_DEBUG", "DIFFUCODE_PROFILES")
"""Variables that set no default."""
OWN = "config"
"""The verb that has no defaults: it is there to mend them."""
GLOBAL = ("model", "yes", "quiet")
"""Keys that stand at the top too, for every verb that has the flag: those that mean the same to each."""
NEVER = {"allow_code_execution": "is agreed to on the command line, each time"}
SCHEDULE = ("steps", "alg_temp", "eps", "reference")
DECODING = {
    "preset": ("rule", "window", *SCHEDULE),
    "rule": SCHEDULE,
    **dict.fromkeys(SCHEDULE, ("preset", "rule")),
    "reference": ("preset", "rule", "window"),
}
"""What a parameter that is said nearer to the user puts out of force, since the two do not go together."""

Key = tuple[str, ...]
"""`("generate", "max_tokens")`, `("model",)`."""


def config_path() -> Path:
    """The file of defaults, there or not."""
    if named := os.environ.get(CONFIG):
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("diffucode", appauthor=False) / "config.toml"


def read_file(path: Path) -> dict[str, Any]:
    """What a file of defaults holds; nothing where there is none. Raises `SettingsError`."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML ({error}); mend it with: diffucode config edit") from None


def variable_of(key: Key) -> str:
    """`DIFFUCODE_GENERATE_MAX_TOKENS`."""
    return PREFIX + "_".join(key).upper().replace("-", "_")


class Schema:
    """Which keys there are, and what each takes."""

    def __init__(self, app: typer.Typer):
        self._app = app

    @cached_property
    def flags(self) -> dict[Key, Flag]:
        verbs = [(verb, info.callback) for verb, info in verbs_of(self._app) if info.callback and verb[0] != OWN]
        every = [(verb, flag) for verb, function in verbs for flag in flags_of(function)]
        for_all: dict[Key, Flag] = {(flag.key,): flag for _, flag in every if flag.key in GLOBAL}
        return {**for_all, **{(*verb, flag.key): flag for verb, flag in every}}

    @cached_property
    def tables(self) -> set[Key]:
        """Where keys stand: the verbs, and the groups of verbs."""
        return {key[:end] for key in self.flags for end in range(1, len(key))}

    def spelt(self, words: Iterable[str]) -> Key:
        """The key that somebody means who may have written a flag's name with hyphens."""
        *table, last = words
        return (*table, last if (*table, last) in self.tables else last.replace("-", "_"))

    def check(self, key: Key, value: Any) -> Any:
        """The value, if the key can have it; otherwise raises `SettingsError`."""
        name, flag = ".".join(key), self.flag(key)
        if flag.key in NEVER:
            raise SettingsError(f"{name}: no default: it {NEVER[flag.key]}")
        if not flag.takes(value):
            raise SettingsError(f"{name} must be {flag.wanted}, not {value!r}")
        try:
            _check_decoding(flag.parameter, value)
        except ConfigError as error:
            raise SettingsError(name + str(error).removeprefix(str(error.field))) from None
        return value

    def flag(self, key: Key) -> Flag:
        """What a key stands for. Raises `SettingsError` where there is no such key."""
        if key in self.flags:
            return self.flags[key]
        name, beside = ".".join(key), [".".join(one) for one in [*self.flags, *self.tables] if len(one) == len(key)]
        raise SettingsError(f"{name}: no such key{did_you_mean(name, beside) or '; diffucode config list --all lists them'}")


def _check_decoding(parameter: str, value: Any) -> None:
    """What a verb would refuse in any case. Raises `ConfigError`."""
    if parameter in {one.name for one in fields(GenerationConfig)}:
        GenerationConfig(**{parameter: value})
    elif parameter == "preset":
        GenerationConfig.preset(value)
    elif value not in (among := {"dtype": DTYPES, "method": METHODS}.get(parameter, (value,))):
        raise ConfigError(f"{parameter} must be {one_of(among, value)}", field=parameter)


class Setting(NamedTuple):
    """A value, and the variable or the file that it comes from."""

    value: Any
    origin: str
    from_file: bool


@dataclass(frozen=True)
class Settings:
    """What the user has set; of each key that cannot be what it is set to, what is wrong; and of variables that are
    none of these, a line each."""

    values: Mapping[Key, Setting] = field(default_factory=dict)
    problems: Mapping[Key, str] = field(default_factory=dict)
    strays: tuple[str, ...] = ()
    schema: Schema | None = None

    @classmethod
    def of(cls, context: typer.Context) -> "Settings":
        """Those that a command line runs with."""
        found = context.find_root().obj
        return found if isinstance(found, Settings) else cls()

    @classmethod
    def read(cls, schema: Schema) -> Self:
        """The file's, and the variables' before them."""
        values: dict[Key, Setting] = {}
        problems: dict[Key, str] = {}
        for key, value, origin, from_file in _found(schema, problems):
            try:
                values[key] = Setting(schema.check(key, value), origin, from_file)
                problems.pop(key, None)  # of what it goes before
            except SettingsError as error:
                problems[key] = f"{origin}: {error}"
        return cls(values, problems, tuple(_strays(schema)), schema)

    def check(self, verb: Verb) -> None:
        """Raise `SettingsError` for the first problem that concerns a verb."""
        for key, problem in self.problems.items():
            if verb[0] != OWN and (len(key) <= 1 or key[:-1] == verb):
                raise SettingsError(problem)

    def get(self, verb: Verb, key: str) -> Setting | None:
        """What a verb's flag is set to: a variable goes before the file, and the verb's key before the one for all verbs."""
        found = [self.values[one] for one in ((*verb, key), (key,)) if one in self.values]
        return min(found, key=lambda setting: setting.from_file, default=None)

    def default_map(self) -> dict[str, Any]:
        """As the parser takes it: by verb and parameter."""
        tree: dict[str, Any] = {}
        if not self.values or self.schema is None:
            return tree
        for *verb, key in self.schema.flags:
            if verb and (setting := self.get(tuple(verb), key)):
                table = tree
                for word in verb:
                    table = table.setdefault(word, {})
                flag = self.schema.flags[*verb, key]
                table[flag.parameter] = str(Path(setting.value).expanduser()) if flag.kind is Path else setting.value
        return tree

    def blamed(self, error: DiffucoderError, verb: Verb, flags: Iterable[Flag], context: typer.Context) -> DiffucoderError:
        """The error; where the value that it is about is one of these, with where that comes from."""
        message = with_flag(error)
        for flag in flags:
            if message.startswith(tuple(name + " " for name in flag.names)) and _source(context, flag.parameter) == "DEFAULT_MAP":
                setting = self.get(verb, flag.key)
                return SettingsError(f"{setting.origin}: {'.'.join((*verb, flag.key))}: {message}") if setting else error
        return error

    def said(self, context: typer.Context, parameters: Collection[str], keys: Mapping[str, str]) -> set[str]:
        """Which parameters somebody has set, less those put out of force by another that was set nearer to the user.

        Args:
            keys: what a parameter is called here, where that is not its name.
        """
        verb = _verb(context)
        ranks = {name: self._rank(_source(context, name), self.get(verb, keys.get(name, name))) for name in parameters}
        over = {(loser, ranks[name]) for name, losers in DECODING.items() if ranks.get(name) for loser in losers}
        return {name for name, rank in ranks.items() if rank and not any(rank < by for loser, by in over if loser == name)}

    def _rank(self, source: str, setting: Setting | None) -> int:
        """How near to the user a value was set: the command line 3, a variable 2, the file 1, nowhere 0."""
        by_default = 1 if setting is None or setting.from_file else 2
        return {"DEFAULT": 0, "DEFAULT_MAP": by_default, "ENVIRONMENT": 2}.get(source, 3)


def _verb(context: typer.Context) -> Verb:
    above = context.parent
    return () if above is None else (*_verb(above), str(context.info_name))  # type: ignore[arg-type]


def _source(context: typer.Context, parameter: str) -> str:
    source = context.get_parameter_source(parameter)
    return "DEFAULT" if source is None else source.name


def _found(schema: Schema, problems: dict[Key, str]) -> Iterator[tuple[Key, Any, str, bool]]:
    """Key, value, origin and whether that is the file; first the file's. What is no TOML is a problem of all keys."""
    path = config_path()
    try:
        for key, value in leaves(read_file(path), schema):
            yield schema.spelt(key), value, str(path), True
    except SettingsError as error:
        problems[()] = str(error)
    if _variables():
        for key, flag in schema.flags.items():
            name = variable_of(key)
            if text := os.environ.get(name):
                yield key, flag.read(text.split() if flag.many else [text]), name, False


def _variables() -> list[str]:
    """Those that are there to set defaults, or seem to be."""
    return [name for name, text in os.environ.items() if name.startswith(PREFIX) and text and name not in OF_ANOTHER_KIND]


def _strays(schema: Schema) -> Iterator[str]:
    for name in _variables():
        known = [*map(variable_of, schema.flags), *OF_ANOTHER_KIND]
        if name not in known:
            near = did_you_mean(name.removeprefix(PREFIX), (one.removeprefix(PREFIX) for one in known))
            what = near.replace("'", "'" + PREFIX, 1) or "; diffucode config list --all lists the keys"
            yield f"{name}: no such variable, so nothing comes of it{what}"


def leaves(table: Mapping[str, Any], schema: Schema, above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every key of a file of defaults, and its value."""
    for word, value in table.items():
        if isinstance(value, dict) and (*above, word) in schema.tables:
            yield from leaves(value, schema, (*above, word))
        else:
            yield (*above, word), value
