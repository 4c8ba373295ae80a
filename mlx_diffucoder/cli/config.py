"""`diffucode config`: list, set and edit the user's defaults."""

import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from ..files import write_atomically
from .command import Command, Option, examples
from .options import Json, Quiet
from .settings import Key, Schema, Settings, config_path, read_file
from .terminal import edit_file, fail, note, put, put_json

HEAD = """# Defaults of diffucode. `diffucode config list --all` lists the keys.
# model = "pocket"          for all commands
#
# [generate]
# max_tokens = 512          for one command: its option --max-tokens
"""

app = typer.Typer(
    name="config",
    help="Set your own defaults.\n\nAn option on the command line overrides a variable (such as DIFFUCODE_GENERATE_MAX_TOKENS or"
    " DIFFUCODE_MODEL), and a variable overrides the configuration file.",
    no_args_is_help=True,
)


def _complete_key(context: typer.Context, incomplete: str) -> list[str]:
    schema = Settings.of(context).schema
    return [name for name in map(".".join, schema.options) if name.startswith(incomplete)]


KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="As generate.max_tokens, or model for all commands.", autocompletion=_complete_key)
]


@app.command(cls=Command, epilog=examples("diffucode config path"))
def path(quiet: Quiet = False) -> int:
    """Print where the configuration file is.

    Set DIFFUCODE_CONFIG to use another file.
    """
    put(config_path())
    return 0


@app.command("list", cls=Command, epilog=examples("diffucode config list", "diffucode config list --all"))
def list_settings(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="List every key, with the values it takes.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """List the defaults you set, and where each comes from."""
    settings = Settings.of(context)
    schema = settings.schema
    keys = [key for key in schema.options if every or key in settings.values]
    rows = {".".join(key): _row(settings, schema.options[key], key) for key in keys}
    if as_json:
        put_json(rows)
    for name, row in ({} if as_json else rows).items():
        value = "" if row["value"] is None else f" = {_toml(row['value'])}"
        put(f"{name}{value}  ({row['from']}{'; ' + row['takes'] if every else ''})")
    for problem in settings.problems.values():
        fail(problem, 1)
    return 1 if settings.problems else 0


@app.command("get", cls=Command, epilog=examples("diffucode config get generate.temp"))
def get_setting(context: typer.Context, key: KeyArgument, quiet: Quiet = False) -> int:
    """Print one value: your default, or else the program's."""
    settings = Settings.of(context)
    schema = settings.schema
    spelt = schema.spelt(key.split("."))
    with _argument():
        option = schema.option(spelt)
    if spelt in settings.problems or () in settings.problems:
        raise SettingsError(settings.problems.get(spelt) or settings.problems[()])
    value = _row(settings, option, spelt)["value"]
    if value is None:
        raise SettingsError(f"{key} is not set")
    put(value if isinstance(value, str) else _toml(value))
    return 0


@app.command(
    "set", cls=Command, epilog=examples("diffucode config set generate.max_tokens 512", "diffucode config set model pocket")
)
def set_setting(
    context: typer.Context,
    key: KeyArgument,
    value: Annotated[list[str], typer.Argument(metavar="VALUE", help="Several for an option that can be repeated.")],
    quiet: Quiet = False,
) -> int:
    """Set a default in the configuration file."""
    schema = Settings.of(context).schema
    spelt = schema.spelt(key.split("."))
    with _argument():
        checked = schema.check(spelt, schema.option(spelt).read(value))
    _change(schema, spelt, checked)
    return 0


@app.command("unset", cls=Command, epilog=examples("diffucode config unset generate.max_tokens"))
def unset_setting(context: typer.Context, key: KeyArgument, quiet: Quiet = False) -> int:
    """Remove a default from the configuration file."""
    schema = Settings.of(context).schema
    spelt = schema.spelt(key.split("."))  # not checked: it may be a key that no longer exists
    if spelt not in schema.flat(read_file(config_path())):
        raise SettingsError(f"{config_path()}: {key} is not set in it")
    _change(schema, spelt, None)
    return 0


@app.command(cls=Command, epilog=examples("diffucode config edit"))
def edit(context: typer.Context, quiet: Quiet = False) -> int:
    """Edit the configuration file in $EDITOR, then check it."""
    schema = Settings.of(context).schema
    file = config_path()
    if not file.exists():
        _write(file, HEAD)
    edit_file(file)
    for problem in (problems := Settings.read(schema).problems.values()):
        fail(problem, 1)
    return 1 if problems else 0


@contextmanager
def _argument() -> Iterator[None]:
    """What is wrong here is an argument, not the file."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(str(error), field="KEY") from None


def _row(settings: Settings, option: Option, key: Key) -> dict[str, Any]:
    """A key's value, where it is set, and the values it takes."""
    found = settings.values.get(key)
    # A key for all commands has no default of its own: each command has one.
    own = option.default if len(key) > 1 and isinstance(option.default, bool | int | float | str) else None
    origin = ("file" if found.from_file else found.origin) if found else "not set" if own is None else "default"
    return {"value": found.value if found else own, "from": origin, "takes": option.wanted}


def _change(schema: Schema, key: Key, value: Any) -> None:
    """Set or remove one key of the file, and say so. Raises `SettingsError` when other keys would change with it."""
    file = config_path()
    with _alone(file):
        before = schema.flat(read_file(file))
        text = file.read_bytes().decode("utf-8-sig") if file.exists() else ""
        crlf = text.count("\r\n") == text.count("\n") > 0
        changed = with_value(text.replace("\r\n", "\n") if crlf else text, key, value)
        wanted = {name: one for name, one in before.items() if name != key} | ({} if value is None else {key: value})
        if schema.flat(tomllib.loads(changed)) != wanted:
            raise SettingsError(f"{file}: cannot be changed without losing another line; edit it with: diffucode config edit")
        _write(file, changed.replace("\n", "\r\n") if crlf else changed)
    note(f"{file}: {'.'.join(key)} {'is no longer set' if value is None else '= ' + _toml(value)}")


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Until the block ends, other processes that change the file wait. The lock is the folder's: the file is replaced."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def with_value(text: str, key: Key, value: Any) -> str:
    """A TOML text with one key set to a value, or removed when that is None. Comments and other lines stay."""
    import tomlkit

    document = tomlkit.parse(text)
    table: Any = document
    for word in key[:-1]:
        table = table.setdefault(word, tomlkit.table())
    name = next((name for name in table if name.replace("-", "_") == key[-1]), key[-1])  # the user may write hyphens
    if value is not None:
        table[name] = value
    elif name in table:
        table.remove(name)
    return tomlkit.dumps(document)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    import tomlkit

    return tomlkit.item(value).as_string()


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text, private=True)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be written ({error.strerror})") from None
