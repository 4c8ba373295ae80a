"""How a measurement ends: with its results, or with one line on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mlx_diffucoder.errors import DiffucoderError


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """What a user can cause ends in one line and exit code 1, Ctrl-C in 130."""
    try:
        yield
    except DiffucoderError as error:
        typer.echo(f"{name}: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"{name}: {error.filename or ''}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
