"""`diffucode fuse`: a model and its adapter in, one model out."""

from pathlib import Path
from typing import Annotated

import typer

from ..formatting import format_bytes
from .command import Command, examples
from .options import Model, Quiet, Refresh, Revision, Yes
from .terminal import note, put

app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode fuse -m pocket --adapter ./adapter --out ./fused"))
def fuse(
    adapter: Annotated[str, typer.Option(help="The adapter: a folder, or a Hub id as OWNER/NAME@REVISION.")],
    out: Annotated[Path, typer.Option(help="The new folder to write.")],
    model: Model = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", "-d", help="Write floats; quantizing the sum again loses some of the adapter.")
    ] = False,
    revision: Revision = None,
    refresh: Refresh = False,
    yes: Yes = False,
    quiet: Quiet = False,
) -> int:
    """Add an adapter to the weights of its model.

    The weights pass through memory a few MB at a time. A quantized model keeps its bits. To choose others, use
    `diffucode convert --adapter`.
    """
    from ..convert import ConvertConfig, convert
    from .model_option import ModelOption, adapter_named, folder_named
    from .progress import Converting

    wanted = ModelOption(model, revision, refresh, yes)
    config = ConvertConfig(adapter=adapter_named(adapter, wanted), dequantize=dequantize)
    name, _ = folder_named(wanted)
    with Converting() as bars:
        convert(
            name,
            out,
            config,
            before_writing=lambda plan: bars.start(plan.bytes_in),
            progress=bars.advance,
        )
    size = sum(file.stat().st_size for file in out.iterdir())
    note(f"wrote {format_bytes(size)}; run it with: diffucode generate -m {out} ...")
    put(out)
    return 0
