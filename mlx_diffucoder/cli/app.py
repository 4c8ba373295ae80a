"""All commands together, and the one place where errors become a line on stderr."""

import errno
import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import DiffucoderError
from ..ranks import wait_for_line
from . import (
    bench,
    chat,
    cluster,
    compare,
    config,
    convert,
    distill,
    doctor,
    eval,
    fuse,
    generate,
    infill,
    models,
    rules,
    serve,
    trace,
    train,
)
from .command import print_error
from .settings import Schema, Settings
from .terminal import code_of, fail, terminable

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, one line on stderr says why; 2 wrong usage; 130 stopped by Ctrl-C, what was finished is"
    " kept; 143 the same by SIGTERM; 141 nothing reads the output any more (a closed pipe)."
)
EXAMPLE = 'Example: diffucode generate -m pocket "Implement f(n): return n squared."'

app = typer.Typer(
    name="diffucode",
    help="Run diffusion code models on Apple silicon.",
    epilog=f"{EXIT_CODES}\n\n{EXAMPLE}",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
train.app.add_typer(distill.app)
for command in (
    generate,
    infill,
    chat,
    serve,
    convert,
    eval,
    compare,
    train,
    fuse,
    cluster,
    doctor,
    bench,
    trace,
    models,
    rules,
    config,
):
    app.add_typer(command.app)  # a group has a name, a single command goes to the top

UNREAD = 141  # 128 + SIGPIPE
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
    """Run the command line, and print errors on stderr. Returns the exit code."""
    code = 0
    try:
        code = _run()
        sys.stdout.flush()  # what is still buffered must not fail at exit, where nobody catches it
        return code
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        code = UNREAD
    except BrokenPipeError:
        code = UNREAD
    except OSError as error:
        code = code or fail(f"stdout: cannot be written ({error.strerror})", 1)
    # Nobody can read what is left of our output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run() -> int:
    command = typer.main.get_command(app)
    try:
        settings = Settings.read(Schema(command))
        with terminable() as arrived:
            code = command(standalone_mode=False, default_map=settings.default_map(), obj=settings) or 0
        # Some releases of the parser make 130 of every interrupt.
        return 128 + arrived[0] if arrived and code == code_of(KeyboardInterrupt()) else code
    except DiffucoderError as error:
        return print_error(error)
    except (KeyboardInterrupt, typer.Abort) as stop:  # Abort: Ctrl-C at a question
        return code_of(stop)
    except BrokenPipeError:
        raise
    except Exception as error:
        wait_for_line()
        # Usage errors of typer's parser, whose classes it does not export.
        if hasattr(error, "format_message"):
            return fail(error.format_message(), getattr(error, "exit_code", 2)) if str(error.format_message()) else 2
        if os.environ.get(DEBUG):
            raise
        return fail(_line_of(error), 1)


def _line_of(error: Exception) -> str:
    """What an error says that no command expected."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO):  # the parser and the tables print on stdout
        return f"stdout: cannot be written ({error.strerror})"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return f"{type(error).__name__}: {error} (a bug, or a broken machine; {DEBUG}=1 shows where)"
