"""`diffucode bench`: what this machine can do, and what is predicted for others."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BenchError

if TYPE_CHECKING:
    from ..bench.ceilings import Ceilings
    from ..bench.chip import Card
    from ..bench.roofline import Work

HERE = "here"
BITS = (2, 3, 4, 5, 6, 8, 16)


def bench(
    card: Annotated[bool, typer.Option("--card", help="Print this machine's chip card.")] = False,
    predict: Annotated[
        str | None,
        typer.Option(
            help='Print predicted times for a chip, as "M5 Max" or "M4 Max 32" (GPU cores), or "here".', show_default=False
        ),
    ] = None,
    bits: Annotated[int, typer.Option(help="For --predict: bits a weight, 16 for none quantized.")] = 4,
    nfe: Annotated[int | None, typer.Option(min=1, help="For --predict: forwards of a generation.", show_default=False)] = None,
    positions: Annotated[
        int | None, typer.Option(min=1, help="For --predict: positions it forwards in all.", show_default=False)
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine's ceilings, known or not.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say what a machine can do.

    Example: diffucode bench --predict "M5 Max" --bits 4
    """
    if card == (predict is not None):
        raise typer.BadParameter("name one: --card, or --predict CHIP", param_hint="diffucode bench")
    if card:
        return _print_card(measure=measure, as_json=as_json)
    if bits not in BITS:
        raise BenchError(f"--bits must be one of {', '.join(map(str, BITS))}, not {bits}")
    if (nfe is None) != (positions is None):
        raise BenchError("--nfe and --positions go together: how many forwards, and of how many positions in all")
    if nfe and positions and positions < nfe:
        raise BenchError(f"--positions must be at least --nfe, not {positions}: a forward has a position or more")
    return _print_prediction(predict or HERE, bits, (nfe, positions), measure=measure, as_json=as_json)


def _print_card(*, measure: bool, as_json: bool) -> int:
    from ..bench.chip import read_card

    card = read_card()
    found = ceilings_here(card, measure=measure)
    if as_json:
        print(json.dumps({"card": card.to_dict(), "ceilings": found.to_dict(), "warnings": card.warnings}))
        return 0
    print("\n".join([*card.lines(), *found.lines()]))
    for warning in card.warnings:
        print(f"note: {warning}", file=sys.stderr)
    return 0


def ceilings_here(card: "Card", *, measure: bool) -> "Ceilings":
    """This machine's ceilings: the table's where it has the chip, measured where it has not or that is asked for."""
    from ..bench.ceilings import ceilings_of
    from ..bench.ceilings import measure as measure_ceilings
    from .progress import waiting

    known = ceilings_of(card.chip, card.gpu_cores) if card.backend == "Metal" else None
    if known and not measure:
        return known
    if not known:
        print(f"{card.chip}: not in the table of chips; its ceilings are measured", file=sys.stderr)
    with waiting("measuring bandwidth and matmul"):
        return measure_ceilings(card.chip)


def _print_prediction(name: str, bits: int, generation: tuple[int | None, int | None], *, measure: bool, as_json: bool) -> int:
    from ..bench.ceilings import ceilings_named
    from ..bench.chip import read_card
    from ..bench.roofline import Work, checks, generation_seconds, predict
    from ..bench.shapes import SHAPES, bits_per_weight, parameters

    if name != HERE and measure:
        raise BenchError(f"--measure is of this machine: use it with --predict {HERE}, not {name!r}")
    ceilings = ceilings_here(read_card(), measure=measure) if name == HERE else ceilings_named(name)
    work = Work(parameters=parameters(SHAPES["7b"]), bits_per_weight=bits_per_weight(bits))
    said: dict[str, Any] = {"shape": "7b", "bits": bits, **predict(ceilings, work)}
    nfe, positions = generation
    if nfe and positions:
        seconds = generation_seconds(ceilings, work, nfe, positions)
        said["generation"] = {"nfe": nfe, "positions": positions, "seconds": seconds}
    said["published"] = [check.to_dict() for check in checks(ceilings.chip.partition(" (")[0])]
    if as_json:
        print(json.dumps(said))
        return 0
    print("\n".join(_table(said, ceilings, work)))
    for check in checks(ceilings.chip.partition(" (")[0]):
        print(check.line())
    return 0


def _table(said: dict[str, Any], ceilings: "Ceilings", work: "Work") -> list[str]:
    """The prediction for people."""
    lines = [
        f"PREDICTED, not measured: DiffuCoder-7B, {said['bits']} bits ({work.bytes / 1e9:.2f} GB), on {ceilings.chip}",
        *ceilings.lines(),
        f"{'overhead':10} " + (f"{1e3 * ceilings.overhead:.1f} ms a forward" if ceilings.overhead else "not known: lower bounds"),
        "",
        "positions   predicted ms   bound by",
    ]
    for row in said["forwards"]:
        lines.append(f"{row['positions']:9} {1e3 * row['seconds']:14.1f}   {row['bound_by']}")
    lines += [
        "",
        f"predicted: {said['free_positions']:.0f} positions in the time of reading the weights",
        f"predicted: {said['autoregressive_tokens_per_second']:.1f} tokens/s one token after the other",
        f"predicted: denoising is faster below {said['break_even_positions_per_useful_token']:.1f} positions per useful token",
    ]
    if one := said.get("generation"):
        lines.append(f"predicted: {one['seconds']:.2f} s for {one['nfe']} forwards of {one['positions']} positions in all")
    if said["published"]:
        lines += ["", "the same model on what llama.cpp measured of Llama-2-7B (its constants are fitted to such rows):"]
    return lines
