"""`diffucode models`: the published models that this program runs, and which of them fit this machine."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..formatting import format_bytes
from . import options
from .command import Command, examples
from .output import note, put

if TYPE_CHECKING:
    from ..bench.ceilings import Ceilings
    from ..catalogue import Published

app = typer.Typer()

Chip = Annotated[
    str | None, typer.Option(help='Predict for this chip: "M4 Max", "M4 Max 32" (GPU cores).', show_default="this machine")
]
WIDTHS = (4, 8, 16)
"""The bits to list."""
PREDICTED = ("autoregressive_tokens_per_second", "break_even_tokens_per_tile", "break_even_tokens_per_forward")


@app.command(cls=Command, epilog=examples("diffucode models", 'diffucode models --chip "M4 Pro" --json'))
def models(chip: Chip = None, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    """List the published models that run, what fits this machine, and predicted speeds.

    Scores are the publishers'. Speeds are predicted, not measured: an autoregressive model of the same size writes so many
    tokens a second, and from so many useful tokens a tile (or a forward of a block) a diffusion model is faster.
    """
    from ..catalogue import CATALOGUE

    ceilings = _ceilings(chip)
    listed = [_described(one, ceilings) for one in CATALOGUE]
    if as_json:
        put(json.dumps({"predicted_for": ceilings.chip if ceilings else None, "models": listed}))
        return 0
    put("\n\n".join("\n".join(_lines(one)) for one in listed))
    if ceilings is None:
        note('note: no speeds are predicted for this machine; --chip "M4 Max" predicts for that chip')
    return 0


def _ceilings(chip: str | None) -> "Ceilings | None":
    """Those of the named chip, or of this machine; None where the table does not have it."""
    from ..bench.ceilings import ceilings_named, ceilings_of
    from ..bench.chip import read_card

    if chip is not None:
        return ceilings_named(chip)
    card = read_card()
    return ceilings_of(card.chip, card.gpu_cores)


def _described(model: "Published", ceilings: "Ceilings | None") -> dict[str, Any]:
    from ..bench.roofline import predict_shape
    from ..bench.shapes import SHAPES, bits_per_weight
    from ..hub import cached
    from ..memory import fit_of, memory_to_run

    sizes = []
    shape = next(name for name, one in SHAPES.items() if one.config is model.config)
    for bits in WIDTHS:
        weights = model.config.parameters * bits_per_weight(bits) / 8
        size: dict[str, Any] = {"bits": bits, "weight_bytes": int(weights), "memory_bytes": memory_to_run(int(weights))}
        size["fits"] = fit_of(weights)
        if ceilings is not None:
            found = predict_shape(ceilings, bits, name=shape)
            size["predicted"] = {key: found[key] for key in PREDICTED if key in found}
        sizes.append(size)
    return {
        "name": model.name,
        "repo": model.repo,
        "family": model.family.name,
        "parameters": model.config.parameters,
        "licence": model.licence,
        "good_at": model.good_at,
        "human_eval": model.human_eval,
        "mbpp": model.mbpp,
        "source": model.source or None,
        "downloaded": cached(model.repo) is not None,
        "sizes": sizes,
    }


def _lines(model: dict[str, Any]) -> list[str]:
    """A model as people read it, at most 80 columns."""
    here = "  (downloaded)" if model["downloaded"] else ""
    scores = [f"{name} {model[key]}" for name, key in (("HumanEval", "human_eval"), ("MBPP", "mbpp")) if model[key]]
    told = f"{', '.join(scores)} ({model['source']})" if scores else "no published score here"
    lines = [
        f"{model['name']}  {model['parameters'] / 1e9:.1f} B parameters{here}",
        f"  {model['repo']}",
        f"  for {model['good_at']}",
        f"  {told}{'; licence ' + model['licence'] if model['licence'] else ''}",
    ]
    for size in model["sizes"]:
        fits = {"fits": "fits here", "tight": "nearly fills this machine", "no": "does not fit here"}[size["fits"]]
        lines.append(f"  {size['bits']:2} bits {format_bytes(size['weight_bytes']):>8}  {fits}")
        if "predicted" in size:
            lines.append(f"     {_prediction(size['predicted'])}")
    return lines


def _prediction(found: dict[str, Any]) -> str:
    """The speed of an autoregressive model of the same size, and the useful tokens from which on this one is faster."""
    speed, tile, *block = found.values()
    least, unit = (block[0], "forward") if block else (tile, "tile")
    faster = f"faster from {least:.1f} tokens a {unit}" if least else "not faster"
    return f"predicted: autoregressive {speed:.0f} tokens/s; {faster}"
