"""`diffucode convert`: convert a Hugging Face checkpoint to an MLX folder."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import HubError
from ..formatting import format_bytes
from . import options
from .cluster import Cluster, machines_of
from .command import Command, examples
from .terminal import note, put

if TYPE_CHECKING:
    from ..convert import ConvertConfig, Plan
    from ..convert.calibrate import MakeProbe
    from ..hub import Download


in_quantization = options.panel("Quantization")
Source = Annotated[str, typer.Argument(help="A checkpoint folder or a Hub id.", autocompletion=options.complete_model)]
Out = Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")]
Quantize = Annotated[bool, in_quantization("--quantize", "-q", help="Quantize the weights.")]
Bits = Annotated[int | None, in_quantization(help="Bits per weight.", show_default="4; 8 in mxfp8")]
GroupSize = Annotated[int | None, in_quantization(help="Weights that share a scale.", show_default="the mode's")]
Mode = Annotated[str, in_quantization(help="affine, mxfp4, mxfp8 or nvfp4.")]
Predicate = Annotated[
    str | None,
    in_quantization(help="Bits by layer: mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6.", show_default="the same for all"),
]
TargetBits = Annotated[
    float | None,
    in_quantization(help="With --calibrate: choose each layer's bits, with this many bits per weight on average at most."),
]
Calibrate = Annotated[
    Path | None, in_quantization(help="JSONL texts to measure on, as for compare. Do not use the texts you evaluate on.")
]
Dequantize = Annotated[bool, typer.Option("--dequantize", "-d", help="Convert a quantized source to floats.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Store floats in float32, float16 (the better file for M1 and M2) or bfloat16.", show_default="the source's type"
    ),
]
Upload = Annotated[str | None, typer.Option(help="Upload the result to the Hub, as OWNER/NAME.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the plan: each layer and its size.")]
PlanAsJson = Annotated[bool, options.in_output("--json", help="Print the plan as one JSON object.")]
LongQuiet = Annotated[bool, options.in_output("--quiet", help="Print nothing on stderr but errors.")]

app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples(
        "diffucode convert apple/DiffuCoder-7B-cpGRPO ./4-bit -q --q-bits 4",
        "diffucode convert pocket ./pocket-8bit -q --q-bits 8 --dry-run",
    ),
)
def convert(
    context: typer.Context,
    source: Source,
    out: Out,
    quantize: Quantize = False,
    q_bits: Bits = None,
    q_group_size: GroupSize = None,
    q_mode: Mode = "affine",
    quant_predicate: Predicate = None,
    target_bpw: TargetBits = None,
    calibrate: Calibrate = None,
    cluster: Cluster = None,
    dequantize: Dequantize = False,
    adapter: options.Adapter = None,
    dtype: Dtype = None,
    upload: Upload = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    dry_run: DryRun = False,
    as_json: PlanAsJson = False,
    quiet: LongQuiet = False,
) -> int:
    """Convert a Hugging Face checkpoint to an MLX folder.

    The weights pass through memory a few MB at a time. If you stop it, no folder is left.
    """
    from ..convert import ConvertConfig
    from .model_option import at_revision

    names = {one.name for one in fields(ConvertConfig)}
    config = ConvertConfig(**{name: value for name, value in context.params.items() if name in names})
    options.refuse_idle(context, "--calibrate", ["cluster"], given=calibrate is not None)
    source = at_revision(source, revision)
    with _probes(source, context.params) as probe:
        if dry_run:
            return _print_plan(source, config, probe, refresh=refresh, as_json=as_json)
        return _convert(source, config, probe, context.params)


@contextmanager
def _probes(source: str, given: dict[str, Any]) -> "Iterator[MakeProbe]":
    """What measures layers: this machine, or those of a cluster."""
    with machines_of(given) as machines:
        if machines is None:
            from ..convert.sensitivity import Probe

            yield Probe
        else:
            from ..cluster.calibration import SpreadProbe

            yield partial(SpreadProbe, machines=machines, name=source, adapter=given["adapter"])


def _convert(source: str, config: "ConvertConfig", probe: "MakeProbe", given: dict[str, Any]) -> int:
    from ..convert import Plan, upload_folder
    from ..convert import convert as convert_checkpoint
    from ..convert.hub import check_upload
    from .model_option import check_download, show_hub_bars
    from .progress import Converting

    upload = given["upload"]
    if upload is not None:
        check_upload(upload)
    began, plans = time.perf_counter(), list[Plan]()

    def before_writing(plan: "Plan") -> None:
        plans.append(plan)
        _print_not_quantized(plan, config)
        bars.start(plan.bytes_in)

    with Converting() as bars:
        folder = convert_checkpoint(
            source,
            given["out"],
            config,
            refresh=given["refresh"],
            before_download=lambda what: check_download(what, yes=True, ask=False),
            downloading=bars.download,
            before_writing=before_writing,
            measuring=bars.tell,
            progress=bars.advance,
            probe=probe,
            run_as=upload or "PATH-OR-ID",
        )
    seconds = time.perf_counter() - began
    _print_calibration(plans[0])
    size = sum(file.stat().st_size for file in folder.iterdir())
    note(f"wrote {format_bytes(size)}; run it with: diffucode generate -m {folder} ...")
    if config.dtype == "float16":
        note(
            "float16 is the better file for M1 and M2, which emulate bfloat16; from M3 on bfloat16 is as fast and cannot overflow"
        )
    address = None
    if upload is not None:
        show_hub_bars()
        address = upload_folder(folder, upload)
        note(f"uploaded to {address}")
    result: dict[str, Any] = {"out": str(folder), "seconds": seconds, "uploaded": address, **plans[0].to_dict()}
    put(json.dumps(result) if given["as_json"] else folder)
    return 0


def _print_plan(source: str, config: "ConvertConfig", probe: "MakeProbe", *, refresh: bool, as_json: bool) -> int:
    from ..convert import make_plan
    from .progress import measuring

    with measuring() if config.calibrate else nullcontext() as tell:
        plan = make_plan(source, config, refresh=refresh, before_download=_refuse_download, measuring=tell, probe=probe)
    if as_json:
        put(json.dumps(plan.to_dict()))
        return 0
    longest = max(len(layer.name) for layer in plan.layers)
    for layer in plan.layers:
        stored = str(layer.width or layer.dtype)
        put(f"{layer.name:{longest}} {format_bytes(layer.bytes_in):>9} -> {format_bytes(layer.bytes_out):>9}  {stored}")
    put(
        f"{plan.parameters / 1e6:.1f} M weights, {format_bytes(plan.bytes_in)} -> {format_bytes(plan.bytes_out)},"
        f" {plan.bits_per_weight:.3f} bits per weight; about {format_bytes(plan.memory_to_run)} of memory to run it"
    )
    _print_calibration(plan)
    _print_not_quantized(plan, config)
    return 0


def _print_calibration(plan: "Plan") -> None:
    if found := plan.calibration:
        order = "" if found.order is None else f", {100 * found.order:.2f} % of mask pairs committed in the same order"
        note(
            f"on the calibration texts: KL {found.kl:.3g} nats per masked position{order}"
            f" ({found.texts} texts, {found.positions} masked positions)",
        )


def _refuse_download(download: "Download") -> None:
    raise HubError(f"{download.repo}: not downloaded yet; --calibrate and --adapter need folders, or what is downloaded")


def _print_not_quantized(plan: "Plan", config: "ConvertConfig") -> None:
    if config.quantize and plan.left and not plan.calibration:
        some = ", ".join(plan.left[:3]) + (f" and {len(plan.left) - 3} more" if len(plan.left) > 3 else "")
        note(f"not quantized, because their rows are not a multiple of {config.group_size}: {some}")
