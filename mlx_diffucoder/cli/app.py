"""The verbs put together, and the one place where errors become a line on stderr."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import DiffucoderError
from .convert import convert
from .evaluate import evaluate
from .generate import generate
from .options import flag_of

app = typer.Typer(
    name="diffucode",
    help="Run diffusion code models on Apple silicon.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(generate)
app.command()(convert)
app.command("eval")(evaluate)

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diffucode {__version__}")
        raise typer.Exit


@app.callback()
def diffucode(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run diffusion code models on Apple silicon."""


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    try:
        code = app(standalone_mode=False)
    except DiffucoderError as error:
        code = _fail(_with_flag(error), 1)
    except (KeyboardInterrupt, typer.Abort):  # Abort: Ctrl-C at a question
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        # Usage errors of typer's parser, whose classes it does not export.
        if not hasattr(error, "format_message"):
            raise
        code = _fail(error.format_message(), getattr(error, "exit_code", 2)) if str(error.format_message()) else 2
    sys.exit(code or 0)


def _with_flag(error: DiffucoderError) -> str:
    """The error's text, the configuration's field at its head replaced by the flag that sets it."""
    message = str(error)
    if error.field is None or not message.startswith(error.field):
        return message
    return flag_of(error.field) + message.removeprefix(error.field)


def _fail(message: str, code: int) -> int:
    print("diffucode: " + " ".join(message.split()), file=sys.stderr)
    return code
