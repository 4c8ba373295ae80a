"""`diffucode config`: the defaults that a user has set."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from ..files import write_atomically
from .command import Command, Option, examples
from .options import Json, Quiet
from .settings import Key, Schema, Settings, config_path, leaves, read_file
from .terminal import edit_file, fail
from .toml import with_value, written

HEAD = """# Defaults of diffucode: `diffucode config list --all` lists the keys.
# model = "pocket"          for every verb
#
# [generate]
# max_tokens = 512          for one: its flag --max-tokens
"""

app = typer.Typer(
    help="Set defaults of your own.\n\nWhat is asked for on the command line goes before a variable (as in"
    " DIFFUCODE_GENERATE_MAX_TOKENS or DIFFUCODE_MODEL), and that before the file.",
    no_args_is_help=True,
)


def _complete_key(context: typer.Context, incomplete: str) -> list[str]:
    _, schema = _settings(context)
    return [name for name in map(".".join, schema.options) if name.startswith(incomplete)]


KeyArgument = Annotated[
    str,
    typer.Argument(metavar="KEY", help="generate.max_tokens, say, or model.", autocompletion=_complete_key, show_default=False),
]


@app.command(cls=Command, epilog=examples("diffucode config path"))
def path(quiet: Quiet = False) -> int:
    """Print where the file of defaults is, or would be.

    DIFFUCODE_CONFIG names another one.
    """
    print(config_path())
    return 0


@app.command("list", cls=Command, epilog=examples("diffucode config list", "diffucode config list --all"))
def list_settings(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Every key there is, with what it takes.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """List what is set, and where each value comes from."""
    settings, schema = _settings(context)
    keys = [key for key in schema.options if every or key in settings.values]
    rows = {".".join(key): _row(settings, schema.options[key], key) for key in keys}
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
    for name, row in ({} if as_json else rows).items():
        value = "" if row["value"] is None else f" = {written(row['value'])}"
        print(f"{name}{value}  ({row['from']}{'; ' + row['takes'] if every else ''})")
    for problem in settings.problems.values():
        fail(problem, 1)
    return 1 if settings.problems else 0


@app.command("get", cls=Command, epilog=examples("diffucode config get generate.max_tokens"))
def get_setting(context: typer.Context, key: KeyArgument, quiet: Quiet = False) -> int:
    """Print one value: what is set, or the program's own default."""
    settings, schema = _settings(context)
    spelt = schema.spelt(key.split("."))
    option = schema.option(spelt)
    if spelt in settings.problems or () in settings.problems:
        raise SettingsError(settings.problems.get(spelt) or settings.problems[()])
    value = _row(settings, option, spelt)["value"]
    if value is None:
        raise SettingsError(f"{key}: is not set")
    print(value if isinstance(value, str) else written(value))
    return 0


@app.command(
    "set", cls=Command, epilog=examples("diffucode config set generate.max_tokens 512", "diffucode config set model pocket")
)
def set_setting(
    context: typer.Context,
    key: KeyArgument,
    value: Annotated[
        list[str], typer.Argument(metavar="VALUE", help="Several for a flag that is repeatable.", show_default=False)
    ],
    quiet: Quiet = False,
) -> int:
    """Set a default in the file."""
    _, schema = _settings(context)
    spelt = schema.spelt(key.split("."))
    _change(schema, spelt, schema.check(spelt, schema.option(spelt).read(value)))
    return 0


@app.command("unset", cls=Command, epilog=examples("diffucode config unset generate.max_tokens"))
def unset_setting(context: typer.Context, key: KeyArgument, quiet: Quiet = False) -> int:
    """Take a default out of the file."""
    _, schema = _settings(context)
    spelt = schema.spelt(key.split("."))  # a key that does not exist is what must go, sometimes
    if spelt not in _in_file(schema, read_file(config_path())):
        raise SettingsError(f"{config_path()}: {key} is not set there")
    _change(schema, spelt, None)
    return 0


@app.command(cls=Command, epilog=examples("diffucode config edit"))
def edit(context: typer.Context, quiet: Quiet = False) -> int:
    """Open the file of defaults in $EDITOR, and check what became of it."""
    _, schema = _settings(context)
    file = config_path()
    if not file.exists():
        _write(file, HEAD)
    edit_file(file)
    for problem in (problems := Settings.read(schema).problems.values()):
        fail(problem, 1)
    return 1 if problems else 0


def _settings(context: typer.Context) -> tuple[Settings, Schema]:
    settings = Settings.of(context)
    if settings.schema is None:
        raise SettingsError("config works in the command `diffucode` only")
    return settings, settings.schema


def _row(settings: Settings, option: Option, key: Key) -> dict[str, Any]:
    """What a key is set to, where that was done, and what it takes."""
    found = settings.values.get(key)
    # A key for all verbs has no default of its own: each verb has one.
    own = option.default if len(key) > 1 and isinstance(option.default, bool | int | float | str) else None
    origin = ("file" if found.from_file else found.origin) if found else "not set" if own is None else "default"
    return {"value": found.value if found else own, "from": origin, "takes": option.wanted}


def _in_file(schema: Schema, table: dict[str, Any]) -> dict[Key, Any]:
    return {schema.spelt(key): value for key, value in leaves(table, schema)}


def _change(schema: Schema, key: Key, value: Any) -> None:
    """Set or take out one key of the file, or leave it as it was and say so."""
    file = config_path()
    before = _in_file(schema, read_file(file))
    text = file.read_bytes().decode() if file.exists() else ""  # with the ends of lines that it has
    changed = with_value(text, key[:-1], key[-1], value)
    wanted = {name: one for name, one in before.items() if name != key} | ({} if value is None else {key: value})
    try:
        right = _in_file(schema, tomllib.loads(changed)) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise SettingsError(f"{file}: written in a way that only you can change without loss: diffucode config edit")
    _write(file, changed)
    print(f"{file}: {'.'.join(key)} {'is not set any more' if value is None else '= ' + written(value)}", file=sys.stderr)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text, private=True)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be written ({error.strerror})") from None
