"""The command reference, made of what `--help` is made of.

python -m mlx_diffucoder.cli.reference > REFERENCE.md
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from .app import EXIT_CODES, app
from .common_options import give_habits, split_examples
from .introspection import Flag, Verb, arguments_of, flags_of, verbs_of
from .settings import GLOBAL, variable_of

FOR_ALL = ", ".join(f"`--{key}`" for key in GLOBAL)
HEAD = f"""# diffucode

Every verb and its flags. This page is made of the program's own help, by `python -m mlx_diffucoder.cli.reference > REFERENCE.md`,
and a test compares the two.

{EXIT_CODES}

Each flag can be given a default: `diffucode config set generate.max_tokens 512`, or the variable
`{variable_of(("generate", "max_tokens"))}`, does so for `generate --max-tokens`. Those of {FOR_ALL}
can be set for all verbs together, as in `{variable_of(("model",))}`. `DIFFUCODE_CONFIG` names another file of defaults, and
`DIFFUCODE_DEBUG=1` shows where an unexpected error comes from.

`diffucode --version` prints the version. `diffucode --install-completion` installs completions for the shell it is called from
(bash, zsh or fish), `--show-completion` prints them. `-h` or `--help` behind a verb prints what is written of it here.
"""


def reference() -> str:
    """The page. Gives the verbs their habits, so it is to be called in a process of its own."""
    texts = {verb: split_examples(inspect.getdoc(info.callback) or "") for verb, info in verbs_of(app)}
    give_habits(app)
    parts = [HEAD]
    for verb, info in verbs_of(app):
        if info.callback is not None:
            parts.append("\n".join(_section(verb, info.callback, *texts[verb])))
    return "\n".join(parts)


def _section(verb: Verb, function: Any, text: str, examples: list[str]) -> Iterator[str]:
    name = " ".join(["diffucode", *verb])
    yield f"## {name}\n"
    yield f"`{' '.join([name, *(shown for shown, _ in arguments_of(function)), '[flags]'])}`\n"
    yield text + "\n"
    for shown, info in arguments_of(function):
        yield f"- `{shown}`: {info.help}{_default(info, None)}"
    if arguments_of(function):
        yield ""
    if flags := flags_of(function):
        yield "| flag | takes | |\n|---|---|---|"
        for flag in flags:
            yield f"| {' '.join(f'`{name}`' for name in flag.names)} | {_takes(flag)} | {_cell(flag)} |"
        yield ""
    if examples:
        yield "```bash\n" + "\n".join(examples) + "\n```\n"


def _takes(flag: Flag) -> str:
    if flag.kind is bool:
        return ""
    return flag.kind_in_words + (", repeatable" if flag.many else "")


def _cell(flag: Flag) -> str:
    text = f"{flag.info.help or ''}{_default(flag.info, flag.default)}"
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def _default(info: Any, default: Any) -> str:
    if isinstance(info.show_default, str):
        return f" Default: {info.show_default}."
    if not info.show_default or default is None or isinstance(default, bool):
        return ""
    return f" Default: `{default}`."


if __name__ == "__main__":
    print(reference(), end="")
