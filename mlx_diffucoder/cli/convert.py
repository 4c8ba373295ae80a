"""`diffucode convert`: a Hugging Face checkpoint in, an MLX folder out."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint folder or a Hub id.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)],
    quantize: Annotated[bool, typer.Option("--quantize", "-q", help="Quantize the weights.")] = False,
    q_bits: Annotated[int | None, typer.Option(help="Bits a weight.", show_default="4; 8 in mxfp8")] = None,
    q_group_size: Annotated[int | None, typer.Option(help="Weights that share a scale.", show_default="the mode's")] = None,
    q_mode: Annotated[str, typer.Option(help="affine, mxfp4, mxfp8 or nvfp4.")] = "affine",
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16, of what is not quantized.", show_default="the source's")
    ] = None,
) -> int:
    """Convert a checkpoint to MLX.

    Example: diffucode convert apple/DiffuCoder-7B-cpGRPO ./diffucoder-4bit -q --q-bits 4
    """
    from ..convert import ConvertConfig
    from ..convert import convert as convert_checkpoint
    from .models import check_download
    from .progress import waiting

    config = ConvertConfig(quantize=quantize, q_bits=q_bits, q_group_size=q_group_size, q_mode=q_mode, dtype=dtype)
    with waiting(f"converting {source}"):
        folder = convert_checkpoint(source, out, config, before_download=lambda what: check_download(what, yes=True, ask=False))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"wrote {size / 1e6:.1f} MB; run it with: diffucode generate -m {folder} ...", file=sys.stderr)
    print(folder)
    return 0
