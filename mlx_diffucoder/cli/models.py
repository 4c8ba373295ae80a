"""`diffucode models`: the published models that run, which of them fit this machine or are on it; fetch and remove them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError, did_you_mean
from ..formatting import format_bytes
from . import options
from .command import Command, Group, examples, refuse_options
from .terminal import note, put, put_json

if TYPE_CHECKING:
    from ..bench.ceilings import Ceilings
    from ..catalogue import Published
    from ..installed import Installed

app = typer.Typer(name="models", cls=Group, invoke_without_command=True, subcommand_metavar="[pull|rm ...]")

Chip = Annotated[
    str | None, typer.Option(help='Predict for this chip: "M4 Max", "M4 Max 32" (GPU cores).', show_default="this machine")
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="NAME or NAME:BITS, as stable-diffcoder:4bit; or a Hub id.", autocompletion=options.complete_model
    ),
]
PullYes = Annotated[bool, typer.Option("--yes", "-y", help="Convert without asking, and fetch what is too large for the memory.")]
RemoveYes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]
WIDTHS = (4, 8, 16)
"""The bits to list."""
PREDICTED = ("autoregressive_tokens_per_second", "break_even_tokens_per_tile", "break_even_tokens_per_forward")


@app.callback(epilog=examples("diffucode models", 'diffucode models --chip "M4 Pro" --json'))
def models(context: typer.Context, chip: Chip = None, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    """List the published models that run, what fits this machine, what is on it, and predicted speeds.

    Scores are the publishers'. Speeds are predicted, not measured: an autoregressive model of the same size writes so many
    tokens a second, and from so many useful tokens a tile (or a forward of a block) a diffusion model is faster.
    """
    if context.invoked_subcommand:
        refuse_options(context)
        return 0
    from ..catalogue import CATALOGUE
    from ..installed import installed

    ceilings, here = _ceilings(chip), installed()
    listed = [_described(one, ceilings, here) for one in CATALOGUE]
    if as_json:
        put_json(
            {
                "predicted_for": ceilings.chip if ceilings else None,
                "models": listed,
                "on_this_machine": [_entry(one) for one in here],
            }
        )
        return 0
    put("\n\n".join("\n".join(lines) for lines in (*map(_lines, listed), _installed_lines(here))))
    if ceilings is None:
        note('note: no speeds are predicted for this machine; try --chip "M4 Max"')
    return 0


@app.command(
    cls=Command, epilog=examples("diffucode models pull stable-diffcoder:4bit", "diffucode models pull apple/DiffuCoder-7B-Base")
)
def pull(name: Name, yes: PullYes = False, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    """Download a model, and convert it if no conversion to these bits is known on the Hub.

    BITS are 2, 3, 4, 5, 6 or 8, or 16 for the published weights. Without them you get the conversion that is on the Hub, or
    4 bits. If you stop it, what was downloaded is kept; run it again to continue.
    """
    from ..installed import converted

    model, bits = _named(name)
    if model is None:
        folder = _download(name, yes=yes)
    else:
        bits = bits or model.usual_bits
        name, repo = model.at(bits), model.repos.get(bits)
        folder = converted(name) or (_download(repo, yes=yes) if repo else _convert(model, bits, yes=yes))
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    note(f"{name} is on this machine, {format_bytes(size)}. Run it with:\n  diffucode generate -m {name} ...")
    if as_json:
        put_json({"name": name, "path": str(folder), "bytes": size})
    else:
        put(name)
    return 0


def _download(repo: str, *, yes: bool) -> Path:
    """The folder of a model in the Hub's cache. It is downloaded first if necessary."""
    from ..hub import fetch_model
    from .model_option import check_download
    from .progress import reading

    with reading() as show:
        return fetch_model(repo, before_download=lambda what: check_download(what, yes=yes, ask=False), progress=show)


def _convert(model: "Published", bits: int, *, yes: bool) -> Path:
    """The folder that a published model is converted into. It is downloaded first if necessary."""
    from ..bench.shapes import bits_per_weight
    from ..convert import ConvertConfig, convert
    from ..hub import Download, cached
    from ..installed import conversion_of
    from .model_option import check_download
    from .progress import Converting

    out, size = conversion_of(model, bits), int(model.config.parameters * bits_per_weight(bits) / 8)

    def check(download: Download) -> None:
        check_download(download, yes=yes, ask=True, converted=(out, size))

    note(f"{model.at(bits)}: this program knows no conversion on the Hub, so it makes one")
    if cached(model.repo):
        check(Download(model.repo, 0, 0, out))
    with Converting() as bars:
        convert(
            model.repo,
            out,
            ConvertConfig(quantize=True, q_bits=bits),
            before_download=check,
            downloading=bars.download,
            before_writing=lambda plan: bars.start(plan.bytes_in),
            progress=bars.advance,
            run_as=model.at(bits),
        )
    note(f"the published weights stay in the cache; diffucode models rm {model.at(16)}")
    return out


@app.command(cls=Command, epilog=examples("diffucode models rm stable-diffcoder:4bit", "diffucode models rm dreamon --yes"))
def rm(name: Name, yes: RemoveYes = False, as_json: options.Json = False, quiet: options.Quiet = False) -> int:
    """Remove a model from this machine: from the Hub's cache, and what pull converted.

    Without BITS everything that is here of the model is removed. Other programs that use the Hub's cache lose it, too.
    """
    from ..catalogue import BITS
    from ..hub import parse_id
    from ..installed import installed, remove

    model, bits = _named(name)
    repo, revision = parse_id(name) or (None, None)
    if revision:
        raise CheckpointError(f"{name}: all its revisions are removed together; leave out @{revision}")
    wanted = {model.at(one) for one in BITS if bits in (None, one)} if model else {repo}
    chosen = [one for one in installed() if wanted & {one.name, one.repo}]
    if not chosen:
        raise CheckpointError(f"{name} is not on this machine; `diffucode models` lists what is")
    for one in chosen:
        note(f"{one.name}  {format_bytes(one.bytes)}  {one.path}")
    size = format_bytes(sum(one.bytes for one in chosen))
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise CheckpointError(f"{name}: not removed; run again with --yes to remove it")
        if not typer.confirm(f"Remove {size}?", err=True):
            raise CheckpointError(f"{name}: not removed")
    for one in chosen:
        remove(one)
        if not as_json:
            put(one.name)
    note(f"removed {size}")
    if as_json:
        put_json({"removed": [_entry(one) for one in chosen]})
    return 0


def _named(name: str) -> "tuple[Published | None, int | None]":
    """The model of a name, and its bits if it has some; both None for a Hub id. Raises `CheckpointError` for any other name."""
    from ..catalogue import CATALOGUE, find
    from ..hub import parse_id
    from ..loading import POCKET

    if name == POCKET:
        raise CheckpointError(f"{POCKET} comes with this program: there is nothing to download or remove")
    if (named := find(name)) is None and parse_id(name) is None:
        names = [one.short_name for one in CATALOGUE]
        near = did_you_mean(name.partition(":")[0], names)
        raise CheckpointError(f"{name}: name a Hub id (owner/name) or one of {', '.join(names)}{near}")
    return named or (None, None)


def _ceilings(chip: str | None) -> "Ceilings | None":
    """Those of the named chip, or of this machine; None where the table does not have it."""
    from ..bench.ceilings import ceilings_named, ceilings_of
    from ..bench.chip import read_card

    if chip is not None:
        return ceilings_named(chip)
    card = read_card()
    return ceilings_of(card.chip, card.gpu_cores)


def _described(model: "Published", ceilings: "Ceilings | None", here: "list[Installed]") -> dict[str, Any]:
    from ..bench.roofline import predict_shape
    from ..bench.shapes import SHAPES, bits_per_weight
    from ..hub import cached
    from ..memory import fit_of, memory_to_run

    sizes, states = [], {one.name: _state(one) for one in reversed(here)}
    shape = next(name for name, one in SHAPES.items() if one.config is model.config)
    for bits in WIDTHS:
        weights = model.config.parameters * bits_per_weight(bits) / 8
        size: dict[str, Any] = {"bits": bits, "weight_bytes": int(weights), "memory_bytes": memory_to_run(int(weights))}
        size["fits"] = fit_of(weights)
        size["here"] = states.get(model.at(bits))
        size["conversion"] = model.converted.get(bits)
        if ceilings is not None:
            found = predict_shape(ceilings, bits, name=shape)
            size["predicted"] = {key: found[key] for key in PREDICTED if key in found}
        sizes.append(size)
    return {
        "name": model.name,
        "short_name": model.short_name,
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


def _state(one: "Installed") -> str:
    return "incomplete" if not one.whole else "downloaded" if one.repo else "converted"


def _entry(one: "Installed") -> dict[str, Any]:
    return {"name": one.name, "repo": one.repo, "path": str(one.path), "bytes": one.bytes, "state": _state(one)}


def _lines(model: dict[str, Any]) -> list[str]:
    """A model as people read it, at most 80 columns."""
    scores = [f"{name} {model[key]}" for name, key in (("HumanEval", "human_eval"), ("MBPP", "mbpp")) if model[key]]
    told = f"{', '.join(scores)} ({model['source']})" if scores else "no published score here"
    lines = [
        f"{model['short_name']}  ({model['name']}, {model['parameters'] / 1e9:.1f} B parameters)",
        f"  {model['repo']}",
        f"  for {model['good_at']}",
        f"  {told}{'; licence ' + model['licence'] if model['licence'] else ''}",
    ]
    for size in model["sizes"]:
        fits = {"fits": "fits here", "tight": "nearly fills this machine", "no": "does not fit here"}[size["fits"]]
        more = size["here"] or (size["conversion"] and "a conversion is on the Hub")
        lines.append(f"  {size['bits']:2} bits {format_bytes(size['weight_bytes']):>8}  {fits}{'; ' + more if more else ''}")
        if "predicted" in size:
            lines.append(f"     {_prediction(size['predicted'])}")
    return lines


def _installed_lines(here: "list[Installed]") -> list[str]:
    """What is on this machine, as people read it."""
    if not here:
        return ["None of them is on this machine. Fetch one: diffucode models pull diffucoder"]
    width = max(len(one.name) for one in here)
    return [
        f"On this machine, {format_bytes(sum(one.bytes for one in here))}:",
        *(f"  {one.name:{width}} {format_bytes(one.bytes):>8}  {_state(one)}" for one in here),
    ]


def _prediction(found: dict[str, Any]) -> str:
    """The speed of an autoregressive model of the same size, and the useful tokens from which on this one is faster."""
    speed, tile, *block = found.values()
    least, unit = (block[0], "forward") if block else (tile, "tile")
    faster = f"faster from {least:.1f} tokens a {unit}" if least else "not faster"
    return f"predicted: autoregressive {speed:.0f} tokens/s; {faster}"
