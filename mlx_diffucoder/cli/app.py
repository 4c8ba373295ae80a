"""The verbs put together, and the one place where errors become a line on stderr."""

import io
import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import DiffucoderError
from .bench import bench
from .compare import compare
from .convert import convert
from .doctor import doctor
from .evaluate import evaluate
from .generate import generate
from .infill import infill
from .options import flag_of

app = typer.Typer(
    name="diffucode",
    help="Run diffusion code models on Apple silicon.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(generate)
app.command()(infill)
app.command()(convert)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(bench)
app.command()(doctor)

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
DEBUG = "DIFFUCODE_DEBUG"


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


def run() -> int:
    """Run the command line; returns the exit code, having said on stderr what went wrong."""
    _open_streams()
    try:
        return app(standalone_mode=False) or 0
    except DiffucoderError as error:
        return _fail(_with_flag(error), 1)
    except (KeyboardInterrupt, typer.Abort):  # Abort: Ctrl-C at a question
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        # Usage errors of typer's parser, whose classes it does not export.
        if hasattr(error, "format_message"):
            return _fail(error.format_message(), getattr(error, "exit_code", 2)) if str(error.format_message()) else 2
        if os.environ.get(DEBUG):
            raise
        return _fail(f"{type(error).__name__}: {error} (a bug, or a broken machine; {DEBUG}=1 shows where)", 1)


def _open_streams() -> None:
    """Standard streams that were closed are opened on nothing: a file opened later must not take their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark


def _with_flag(error: DiffucoderError) -> str:
    """The error's text, the configuration's field at its head replaced by the flag that sets it."""
    message = str(error)
    if error.field is None or not message.startswith(error.field):
        return message
    return flag_of(error.field) + message.removeprefix(error.field)


def _fail(message: str, code: int) -> int:
    text = " ".join(message.split())
    print("diffucode: " + text.encode("utf-8", "replace").decode("utf-8"), file=sys.stderr)
    return code
