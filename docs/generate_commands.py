"""The pages made from the command line's own help: reference/commands.md, and the keys in reference/configuration.md.

    python docs/generate_commands.py

writes both. It asks Typer for the commands, so it shows what `--help` shows. A test fails when a page is out of date.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from mlx_diffucoder.cli.app import app
from mlx_diffucoder.cli.command import examples_of

REFERENCE = Path(__file__).parent / "reference"
COMMANDS = REFERENCE / "commands.md"
CONFIGURATION = REFERENCE / "configuration.md"
BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->\n"
KINDS = {"str": "text", "int": "integer", "float": "number", "path": "path"}
KINDS |= {"text": "text", "string": "text", "integer": "integer", "integer range": "integer", "float range": "number"}
HEAD = """# Commands

Every command and its options, as `diffucode COMMAND --help` prints them. `python docs/generate_commands.py` writes this page.

You can set a default for each option: see [configuration](configuration.md). See also [exit codes](exit-codes.md).
"""

Words = tuple[str, ...]
"""A command by its words: `("config", "list")`."""


def commands() -> Iterator[tuple[Words, Any]]:
    """Every command with its words, a group before what it holds; the program itself is not among them."""
    yield from _below(typer.main.get_command(app), ())


def _below(group: Any, words: Words) -> Iterator[tuple[Words, Any]]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield (*words, name), command
            if hasattr(command, "commands"):
                yield from _below(command, (*words, name))


def options_of(command: Any) -> list[Any]:
    """A command's options in the order of its help, without hidden ones and `--help`."""
    return [one for one in command.params if one.param_type_name == "option" and not one.hidden and "--help" not in one.opts]


def commands_page() -> str:
    """The text of reference/commands.md."""
    parts = [HEAD, "\n".join(_index())]
    parts += ["\n".join(_section(words, command)) for words, command in commands()]
    return "\n".join(parts)


def _index() -> Iterator[str]:
    yield "| command | |\n|---|---|"
    for words, command in commands():
        name, summary = " ".join(["diffucode", *words]), (command.help or "").partition("\n")[0]
        yield f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(summary)} |"
    yield ""


def _section(words: Words, command: Any) -> Iterator[str]:
    name = " ".join(["diffucode", *words])
    arguments = [one for one in command.params if one.param_type_name == "argument" and not one.hidden]
    yield f"## {name}\n"
    yield f"```text\n{' '.join([name, *map(_shown, arguments), *_rest(command)])}\n```\n"
    if command.help:
        yield _prose(command.help) + "\n"
    for argument in arguments:
        yield f"- `{_shown(argument)}`: {_prose(argument.help or '')}{_default(argument)}"
    if arguments:
        yield ""
    yield from _tables(options_of(command))
    if examples := examples_of(command):
        yield "```bash\n" + "\n".join(examples) + "\n```\n"


def _rest(command: Any) -> Iterator[str]:
    if options_of(command):
        yield "[OPTIONS]"
    if hasattr(command, "commands"):
        yield "COMMAND" if not getattr(command, "invoke_without_command", False) else "[COMMAND]"


def _shown(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]") + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _tables(options: list[Any]) -> Iterator[str]:
    """A table for each panel of the help, in its order."""
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(getattr(option, "rich_help_panel", None) or "", []).append(option)
    for panel, rows in panels.items():
        if panel:
            yield f"**{panel}**\n"
        yield "| option | takes | |\n|---|---|---|"
        for option in rows:
            names = " ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
            yield f"| {names} | {_takes(option)} | {_cell((option.help or '') + _default(option))} |"
        yield ""


def _takes(option: Any) -> str:
    """What an option takes: a kind and its bounds; nothing for a switch."""
    if option.is_flag:
        return ""
    low, high = _bound(option, "min"), _bound(option, "max")
    bounds = {(True, True): f"{low} to {high}", (True, False): f"at least {low}", (False, True): f"at most {high}"}
    bound = bounds.get((low is not None, high is not None))
    return ", ".join(filter(None, [_kind(option), bound, "repeatable" if option.multiple else ""]))


def _kind(option: Any) -> str:
    """Typer's releases keep it in different places."""
    described = getattr(option, "type_descriptor", None)
    name = option.type.name if described is None else (*get_args(described.annotation), described.annotation)[0].__name__
    return KINDS.get(name.lower(), name.lower())


def _bound(option: Any, end: str) -> float | None:
    found = getattr(option, end, None)
    return getattr(getattr(option, "type", None), end, None) if found is None else found


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return f" Default: {parameter.show_default}."
    default = parameter.default
    if not parameter.show_default or default is None or isinstance(default, bool) or callable(default):
        return ""
    return f" Default: `{default}`."


def _prose(text: str) -> str:
    """Help text as Markdown shows it: angle brackets are no HTML."""
    return re.sub(r"(?<![\\`])<", r"\\<", text.replace("\\[", "["))


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", _prose(text))


def keys_table() -> str:
    """Every key of the configuration file: a table for each command."""
    tables: list[str] = []
    for words, command in commands():
        rows = [f"| `{key}` | {_takes_key(one)} |" for one in options_of(command) if (key := _key(one)) is not None]
        if rows and words[0] != "config":
            tables.append("\n".join([f"### {'.'.join(words)}\n", "| key | takes |\n|---|---|", *rows, ""]))
    return "\n".join(tables)


def _key(option: Any) -> str | None:
    """`max_tokens` for `--max-tokens`; none for permission to run code, which you give each time."""
    name = next((name for name in option.opts if name.startswith("--")), option.opts[0]).lstrip("-").replace("-", "_")
    return None if name == "allow_code_execution" else name


def _takes_key(option: Any) -> str:
    if option.is_flag:
        return "true or false"
    return ("list of " if option.multiple else "") + _takes(option).removesuffix(", repeatable")


def configuration_page() -> str:
    """The text of reference/configuration.md, with the keys as they are now."""
    before, _, rest = CONFIGURATION.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + "\n" + keys_table() + "\n" + END + rest.partition(END)[2]


def main() -> None:
    """Write both pages."""
    COMMANDS.write_text(commands_page(), encoding="utf-8")
    CONFIGURATION.write_text(configuration_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
