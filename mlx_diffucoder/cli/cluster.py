"""`--cluster`: spread the work of a command over several machines."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from .terminal import note

if TYPE_CHECKING:
    from ..cluster.machines import Machines

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="HOSTS",
        help="Spread the answers over the machines of this hostfile, or over a Dask cluster at tls://HOST:PORT.",
    ),
]


@contextmanager
def machines_of(given: Mapping[str, Any]) -> "Iterator[Machines | None]":
    """The machines that `--cluster` names, until the context ends; None without it, or where no model answers.

    Args:
        given: a command's parameters.

    Raises:
        ConfigError: `--trace` is given, too.
        ClusterError: as `open_machines`.
    """
    if given["cluster"] is None or given.get("samples"):
        yield None
        return
    if given.get("trace"):
        raise ConfigError("--trace writes on the machine that answers; remove it, or --cluster", field="--trace")
    from ..cluster.machines import open_machines
    from .progress import waiting

    with ExitStack() as stack:
        with waiting("starting the machines"):
            machines = stack.enter_context(open_machines(given["cluster"], note))
        yield machines
