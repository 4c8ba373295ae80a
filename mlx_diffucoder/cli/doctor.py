"""`diffucode doctor`: whether this machine can run the model, and whether it computes correctly."""

import json
import platform
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DoctorError
from ..formatting import format_bytes, format_seconds
from .command import Command, examples
from .options import Json, Model, Quiet
from .terminal import note, put

if TYPE_CHECKING:
    from ..bench.self_test import Check

BITS = (16, 8, 6, 4, 3)
Quick = Annotated[bool, typer.Option("--quick", help="Leave out the layer of the 7B's shape, which takes up to a minute.")]
FITS = {"fits": "fits", "tight": "barely fits, and will be slow", "no": "does not fit"}


app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode doctor", "diffucode doctor --json | jq .self_test"))
def doctor(model: Model = None, quick: Quick = False, as_json: Json = False, quiet: Quiet = False) -> int:
    """Check this machine.

    Prints versions, whether the 7B fits into memory at each bit width, and whether it is in the Hub's cache. A self-test then
    computes recorded results of the bundled model again, in each precision, and a layer of the 7B's shape. If one is wrong,
    the exit code is 1. With --json it prints what a report of a problem needs.
    """
    from ..bench.ceilings import ceilings_of
    from ..bench.chip import read_card
    from ..bench.environment import environment, weights_of
    from ..loading import DEFAULT_MODEL

    card = read_card()
    known = ceilings_of(card.chip, card.gpu_cores) if card.backend == "Metal" else None
    report: dict[str, Any] = {
        "versions": _versions(),
        "card": asdict(card),
        "ceilings": asdict(known) if known else None,
        "memory": _memory(card.memory_bytes),
        "hub_cache": _hub_cache(),
        "environment": environment(),
        "checkpoint": weights_of(model or DEFAULT_MODEL),
        "sandbox": _sandbox(),
    }
    if not as_json:
        put(f"{'versions':10} " + ", ".join(f"{name} {number}" for name, number in report["versions"].items()))
        put("\n".join([*card.lines(), *(known.lines() if known else ["ceilings   not in the table: diffucode bench card"])]))
        _print_memory(report["memory"])
        _print_cache(report["hub_cache"])
        _print_sandbox(report["sandbox"])
    checks = _self_test(quick=quick, quiet=as_json)
    if as_json:
        put(json.dumps({**report, "self_test": [check.to_dict() for check in checks]}))
    for warning in card.warnings:
        note(f"note: {warning}")
    if wrong := next((check for check in checks if not check.right), None):
        raise DoctorError(
            f"self-test: {wrong.name}: {wrong.found()}: the results of this machine cannot be trusted; reinstall mlx and"
            " mlx_diffucoder (pip install --force-reinstall), and if the test still fails, report it with the output of"
            " `diffucode doctor --json`"
        )
    return 0


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from .. import __version__

    found = {"python": platform.python_version(), "mlx_diffucoder": __version__}
    for name in ("mlx", "mlx-lm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _memory(total: int) -> dict[str, Any]:
    """The memory that the 7B needs at each bit width, in bytes, and whether it fits into `total`."""
    from ..bench.shapes import SHAPES, bits_per_weight
    from ..memory import fit_of, memory_to_run, working_set

    rows = []
    for bits in BITS:
        size = int(SHAPES["7b"].config.parameters * bits_per_weight(bits) / 8)
        rows.append({"bits": bits, "bytes": size, "memory_to_run": memory_to_run(size), "fits": fit_of(size)})
    return {"total": total, "recommended": working_set(), "7b": rows}


def _print_memory(memory: dict[str, Any]) -> None:
    part = (
        f", of which Metal recommends {format_bytes(memory['recommended'])}" if memory["recommended"] != memory["total"] else ""
    )
    put(f"{'7B':10} in {format_bytes(memory['total'])} of memory{part}:")
    for row in memory["7b"]:
        size, needed = format_bytes(row["bytes"]), format_bytes(row["memory_to_run"])
        put(f"{'':10} {row['bits']:2} bits: {size:>8}, about {needed:>8} to run: {FITS[row['fits']]}")


def _hub_cache() -> dict[str, Any]:
    """Whether the default model is in the Hub's cache, without asking the Hub."""
    from ..hub import cached, constants
    from ..loading import DEFAULT_MODEL
    from .model_option import free_disk

    folder, root = cached(DEFAULT_MODEL), constants().HF_HUB_CACHE
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder else None
    return {"folder": root, "model": DEFAULT_MODEL, "bytes": size, "free_bytes": free_disk(Path(root))}


def _print_cache(cache: dict[str, Any]) -> None:
    found = "not downloaded" if cache["bytes"] is None else f"downloaded, {format_bytes(cache['bytes'])}"
    put(f"{'Hub cache':10} {cache['model']}: {found}; {format_bytes(cache['free_bytes'])} free in {cache['folder']}")


def _sandbox() -> dict[str, Any]:
    """The sandbox for code that a model wrote, and why it does not work, if it does not."""
    from ..evaluation.execute import sandbox_missing
    from ..evaluation.sandbox import sandbox_name

    missing = sandbox_missing()
    return {"name": sandbox_name(), "works": not missing, "missing": missing}


def _print_sandbox(sandbox: dict[str, Any]) -> None:
    works = "works: eval, --tests and train grpo run a model's code in it"
    put(f"{'sandbox':10} {sandbox['name']} " + (works if sandbox["works"] else f"does not work ({sandbox['missing']})"))


def _self_test(*, quick: bool, quiet: bool) -> "list[Check]":
    """Run the checks, and print each result when it is there unless `quiet`."""
    import mlx.core as mx

    from ..bench.layer_test import layer_test
    from ..bench.self_test import self_test
    from .progress import waiting

    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    if not quiet:
        fewer = "" if on_gpu else "; fewer checks than on a GPU, where 16 bits are fast"
        what = "the bundled model" if quick else "the bundled model and a layer of the 7B"
        put(f"{'self-test':10} {what} on this machine's {'GPU' if on_gpu else 'CPU'}{fewer}:", flush=True)
    checks, tests = list[Any](), chain(self_test(), () if quick else layer_test())
    while True:
        with waiting("computing"):
            check = next(tests, None)
        if check is None:
            return checks
        checks.append(check)
        if not quiet:
            verdict = "right" if check.right else "WRONG"
            put(f"{'':10} {verdict}: {check.name}: {check.found()} ({format_seconds(check.seconds)})", flush=True)
