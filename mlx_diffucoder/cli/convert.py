"""`diffucode convert`: a Hugging Face checkpoint in, an MLX folder out."""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import HubError
from ..formatting import format_bytes
from .command import Command, examples
from .options import OUTPUT, complete_model

if TYPE_CHECKING:
    from ..convert import ConvertConfig, Plan
    from ..loading import Download


app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples(
        "diffucode convert apple/DiffuCoder-7B-cpGRPO ./4-bit -q --q-bits 4",
        "diffucode convert pocket ./pocket-8bit -q --q-bits 8 --dry-run",
    ),
)
def convert(
    source: Annotated[
        str, typer.Argument(help="A checkpoint folder or a Hub id.", autocompletion=complete_model, show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)],
    quantize: Annotated[bool, typer.Option("--quantize", "-q", help="Quantize the weights.")] = False,
    q_bits: Annotated[int | None, typer.Option(help="Bits a weight.", show_default="4; 8 in mxfp8")] = None,
    q_group_size: Annotated[int | None, typer.Option(help="Weights that share a scale.", show_default="the mode's")] = None,
    q_mode: Annotated[str, typer.Option(help="affine, mxfp4, mxfp8 or nvfp4.")] = "affine",
    quant_predicate: Annotated[
        str | None,
        typer.Option(help="Bits by layer: mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6.", show_default="all alike"),
    ] = None,
    target_bpw: Annotated[
        float | None,
        typer.Option(help="Choose each layer's bits by --calibrate: this many bits a weight at most.", show_default=False),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="JSONL texts to measure on, as compare reads them; none that you judge by.", show_default=False),
    ] = None,
    dequantize: Annotated[bool, typer.Option("--dequantize", "-d", help="Make floats of a quantized source.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16, of what is not quantized.", show_default="the source's")
    ] = None,
    upload: Annotated[str | None, typer.Option(help="Put the result on the Hub, as OWNER/NAME.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be made of each layer, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.", rich_help_panel=OUTPUT)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing on stderr but errors.", rich_help_panel=OUTPUT)] = False,
) -> int:
    """Convert a checkpoint to MLX."""
    from ..convert import ConvertConfig

    config = ConvertConfig(
        quantize=quantize,
        q_bits=q_bits,
        q_group_size=q_group_size,
        q_mode=q_mode,
        quant_predicate=quant_predicate,
        target_bpw=target_bpw,
        calibrate=calibrate,
        dequantize=dequantize,
        dtype=dtype,
    )
    if dry_run:
        return _print_plan(source, config, as_json=as_json)
    return _convert(source, out, config, upload=upload, as_json=as_json)


def _convert(source: str, out: Path, config: "ConvertConfig", *, upload: str | None, as_json: bool) -> int:
    from ..convert import Plan, upload_folder
    from ..convert import convert as convert_checkpoint
    from ..convert.hub import check_upload
    from .model_option import check_download, show_hub_bars
    from .progress import converting

    if upload is not None:
        check_upload(upload)
    began, plans = time.perf_counter(), list[Plan]()

    def before_writing(plan: "Plan") -> None:
        plans.append(plan)
        _say_what_is_left(plan, config)
        bars.start(plan.bytes_in)

    with converting(measures=config.calibrate is not None) as bars:
        folder = convert_checkpoint(
            source,
            out,
            config,
            before_download=lambda what: check_download(what, yes=True, ask=False),
            before_writing=before_writing,
            measuring=bars.tell,
            progress=bars.advance,
            run_as=upload or "PATH-OR-ID",
        )
    seconds = time.perf_counter() - began
    _say_what_was_measured(plans[0])
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"wrote {format_bytes(size)}; run it with: diffucode generate -m {folder} ...", file=sys.stderr)
    address = None
    if upload is not None:
        show_hub_bars()
        address = upload_folder(folder, upload)
        print(f"uploaded to {address}", file=sys.stderr)
    result: dict[str, Any] = {"out": str(folder), "seconds": seconds, "uploaded": address, **plans[0].to_dict()}
    print(json.dumps(result) if as_json else folder)
    return 0


def _print_plan(source: str, config: "ConvertConfig", *, as_json: bool) -> int:
    from ..convert import make_plan
    from .progress import measuring

    with measuring() if config.calibrate else nullcontext() as bar:
        plan = make_plan(source, config, before_download=_refuse_download, measuring=bar.tell if bar else None)
    if as_json:
        print(json.dumps(plan.to_dict()))
        return 0
    longest = max(len(layer.name) for layer in plan.layers)
    for layer in plan.layers:
        stored = str(layer.width or layer.dtype)
        print(f"{layer.name:{longest}} {format_bytes(layer.bytes_in):>9} -> {format_bytes(layer.bytes_out):>9}  {stored}")
    print(
        f"{plan.parameters / 1e6:.1f} M weights, {format_bytes(plan.bytes_in)} -> {format_bytes(plan.bytes_out)},"
        f" {plan.bits_per_weight:.3f} bits per weight; about {format_bytes(plan.memory_to_run)} of memory to run it"
    )
    _say_what_was_measured(plan)
    _say_what_is_left(plan, config)
    return 0


def _say_what_was_measured(plan: "Plan") -> None:
    if found := plan.calibration:
        order = "" if found.order is None else f", {100 * found.order:.2f} % of pairs of masks committed in the same order"
        print(
            f"on the texts it was calibrated on: KL {found.kl:.3g} nats a masked position{order}"
            f" ({found.texts} texts, {found.positions} masked positions)",
            file=sys.stderr,
        )


def _refuse_download(download: "Download") -> None:
    raise HubError(f"{download.repo}: not downloaded yet; --dry-run reads a folder or what has been downloaded before")


def _say_what_is_left(plan: "Plan", config: "ConvertConfig") -> None:
    if config.quantize and plan.left and not plan.calibration:
        some = ", ".join(plan.left[:3]) + (f" and {len(plan.left) - 3} more" if len(plan.left) > 3 else "")
        print(f"not quantized, for groups of {config.group_size} do not divide their rows: {some}", file=sys.stderr)
