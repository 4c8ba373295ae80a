"""`--cluster`: spread the work of a command over several machines; and `diffucode cluster check`."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ClusterError, ConfigError
from ..formatting import format_bytes
from ..ranks import rank
from . import options
from .command import Command, examples
from .terminal import note, put, put_json

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

Hosts = Annotated[Path, typer.Argument(help="A hostfile of mlx.launch.")]
Shape = Annotated[str, typer.Option(help="Predict for a model of this shape, as bench predict does.")]
Bits = Annotated[int, typer.Option(min=2, max=16, help="And so many bits a weight.")]

app = typer.Typer(name="cluster", help="Look at the machines that --cluster and mlx.launch use.", no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """A group, although it has one command."""


@app.command(cls=Command, epilog=examples("diffucode cluster check hosts.json"))
def check(hosts: Hosts, shape: Shape = "7b", bits: Bits = 4, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    """Ask each machine of a hostfile whether it can work, what it is, and how fast the link to it is.

    The link is measured by MLX's ring, if every machine has ips. What more machines gain is predicted from their chips. The
    exit code is 1 if a machine cannot work.
    """
    from ..cluster.check import check_hosts
    from .progress import waiting

    with waiting("asking the machines"):
        found = check_hosts(hosts, shape, bits)
    if as_json:
        put_json(found)
    else:
        put("\n".join(_lines(found, f"{shape} at {bits} bits")))
    if error := (found["link"] or {}).get("error"):
        raise ClusterError(f"{hosts}: {error}")
    failed = [machine["name"] for machine in found["machines"] if machine["error"]]
    if failed:
        raise ClusterError(f"{hosts}: {len(failed)} of {len(found['machines'])} machines cannot work: {', '.join(failed)}")
    return 0


def _lines(found: dict[str, Any], model: str) -> Iterator[str]:
    for machine in found["machines"]:
        card, versions = machine["card"], machine["versions"] or {}
        about = ", ".join(f"{name} {number}" for name, number in versions.items())
        if machine["error"]:
            yield machine["error"]
        elif card:
            cores = f", {card['gpu_cores']} GPU cores" if card["gpu_cores"] else ""
            memory = format_bytes(card["memory_bytes"])
            yield f"{machine['name']}: {card['chip']}{cores} ({card['backend']}), {memory}, {card['system']}, {about}"
    link = found["link"]
    if link is None:
        yield "link: not measured; it needs ips of every machine, two machines or more, and all of them working"
    elif "error" not in link:
        measured = f"a sum of 4 bytes takes {link['latency_ms']:.3g} ms, one of 16 MiB runs at {link['gb_per_s']:.3g} GB/s"
        yield f"link: {measured} (measured over MLX's ring)"
    gain = found["many_answers"]
    times = (
        f"{gain:.2f} times as many a second as the first machine (predicted, {model})"
        if gain
        else "not predicted for these chips"
    )
    yield f"many answers (--cluster): {times}"
    for one in found["one_model"]:
        pays = one["launch"] if one["times_faster"] > 1 else "does not pay over this link"
        speed = f"a forward of {one['rows']} rows {one['times_faster']:.2f} times as fast as the first machine's"
        yield f"one model (--shard {one['shard']}): {speed} (predicted, {model}): {pays}"
    if found["launch"]:
        yield f"training on all of them: {found['launch']}"


@contextmanager
def machines_of(given: Mapping[str, Any]) -> "Iterator[Machines | None]":
    """The machines that `--cluster` names, until the context ends; None without it, or where no model answers.

    Args:
        given: a command's parameters.

    Raises:
        ConfigError: `--trace` is given, too, or `mlx.launch` started several processes.
        ClusterError: as `open_machines`.
    """
    if given["cluster"] is None or given.get("samples"):
        yield None
        return
    if given.get("trace"):
        raise ConfigError("--trace writes on the machine that answers; remove it, or --cluster", field="--trace")
    if rank() is not None:
        raise ConfigError("--cluster is for one process; remove it, or start the command without mlx.launch", field="--cluster")
    from ..cluster.machines import open_machines
    from .progress import waiting

    with ExitStack() as stack:
        with waiting("starting the machines"):
            machines = stack.enter_context(open_machines(given["cluster"], note))
        yield machines
