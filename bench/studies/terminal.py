"""Turn the errors of a study into one line on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mlx_diffucoder.errors import DiffucoderError


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Errors that a user can cause print one line and exit with 1; Ctrl-C exits with 130."""
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
