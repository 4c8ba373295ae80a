"""What every verb has: examples below its help, `--quiet`, and defaults that are blamed where they are at fault."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DiffucoderError
from .introspection import Verb, flags_of, verbs_of
from .settings import Settings

EXAMPLE = "Example: "


@functools.cache
def give_habits(app: typer.Typer) -> None:
    """Give every verb of an application what all of them have, once: to be called when all of them are there."""
    for verb, info in list(verbs_of(app)):
        if info.callback is None:
            continue
        _, examples = split_examples(inspect.getdoc(info.callback) or "")
        if examples:
            # Blank lines between: typer's releases differ in what they make of single ends. Brackets are markup to it.
            shown = [example.replace("[", "\\[") for example in examples]
            info.epilog = "\n\n".join(["Examples:" if len(examples) > 1 else "Example:", *shown])
        info.callback = with_habits(verb, info.callback)


def split_examples(text: str) -> tuple[str, list[str]]:
    """A docstring without its lines `Example: diffucode ...`, and what they show."""
    lines = text.splitlines()
    examples = [line.removeprefix(EXAMPLE) for line in lines if line.startswith(EXAMPLE)]
    return "\n".join(line for line in lines if not line.startswith(EXAMPLE)).strip(), examples


def with_habits(verb: Verb, function: Callable[..., Any]) -> Callable[..., Any]:
    """A verb's function with one more flag, `--quiet`, run with the defaults that the user has set."""
    signature = inspect.signature(function, eval_str=True)
    parameters = list(signature.parameters.values())
    context_name = next((one.name for one in parameters if one.annotation is typer.Context), None)
    flags = flags_of(function)
    taken = {name for flag in flags for name in flag.names}
    added = []
    if context_name is None:
        added.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    if "--quiet" not in taken:
        names = ["--quiet"] if "-q" in taken else ["--quiet", "-q"]
        quiet = Annotated[bool, typer.Option(*names, help="Nothing on stderr but errors.")]
        added.append(inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=quiet))

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        context = given[context_name] if context_name else given.pop("context")
        hushed = given.pop("quiet") if "--quiet" not in taken else False
        settings = Settings.of(context)
        settings.check(verb)
        with quietly(hushed):
            if context.invoked_subcommand is None:  # which says it itself
                print(*settings.strays, sep="\n", end="\n" * bool(settings.strays), file=sys.stderr)
            try:
                return function(**given)
            except DiffucoderError as error:
                raise settings.blamed(error, verb, flags, context) from None

    text, _ = split_examples(inspect.getdoc(function) or "")
    # A paragraph as one line: typer breaks it where the terminal ends, and also where the source did.
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    run.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in [*parameters, *added]}
    return run


@contextmanager
def quietly(wanted: bool) -> Iterator[None]:
    """Nothing reaches stderr; errors have their own way there (`saying.fail`)."""
    if not wanted:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield
