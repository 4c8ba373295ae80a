"""Compare calibrated widths with uniform ones and mlx-lm's recipes, at equal bits per weight.

    python -m bench.studies.calibration pocket --calibrate TEXTS.jsonl --dtype float32

converts the checkpoint at every uniform width and by every recipe, and again with the widths that a calibration
chooses for no more bits. It compares all of them with the checkpoint on texts that were not calibrated on, prints a
table and ends with one line of JSON. Not covered: pass@1, which says little where everything passes.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.errors import TaskError
from mlx_diffucoder.formatting import format_seconds

from .terminal import one_line

UNIFORM = (2, 3, 4, 5, 6, 8)


def main(
    model: Annotated[str, typer.Argument(help="A checkpoint that is not quantized: a folder, or pocket.")] = "pocket",
    calibrate: Annotated[Path | None, typer.Option(help="Texts to calibrate on.", show_default=False)] = None,
    texts: Annotated[Path | None, typer.Option(help="Texts to compare on.", show_default="80 small functions")] = None,
    dtype: Annotated[str | None, typer.Option(help="The dtype to compare in.", show_default="that of the weights")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many texts of each file.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these: 2 to 8, or a recipe; repeatable.")] = None,
) -> None:
    """Measure the benefit of calibration."""
    from mlx_diffucoder.data import HELD_OUT, read_samples

    with one_line("calibration"):
        if calibrate is None:
            raise TaskError("--calibrate is missing: give a JSONL file of texts other than those to compare on")
        names = [*map(str, UNIFORM), *recipes()]
        if unknown := set(only or ()) - set(names):
            raise TaskError(f"--only {min(unknown)}: not one of {', '.join(names)}")
        chosen_by, judged_by = read_samples(calibrate, limit), read_samples(texts or HELD_OUT, limit)
        judges = [replace(sample, where="") for sample in judged_by]
        if same := [sample.where for sample in chosen_by if replace(sample, where="") in judges]:
            raise TaskError(f"{same[0]}: is among the texts to compare on; calibrate on others")
        report = measure(model, chosen_by, judged_by, dtype, only or names)
    print(json.dumps(report))


def recipes() -> tuple[str, ...]:
    from mlx_diffucoder.convert.config import RECIPES

    return RECIPES


def measure(model: str, chosen_by: Any, judged_by: Any, dtype: str | None, names: list[str]) -> dict[str, Any]:
    """Yield the numbers of every pair, and the seconds of the first calibration."""
    from mlx_diffucoder.convert.calibrate import Calibrator
    from mlx_diffucoder.data import encode_samples
    from mlx_diffucoder.divergence.masking import masked_canvases
    from mlx_diffucoder.evaluation.compare import Checkpoint
    from mlx_diffucoder.loading import DTYPES, resolve

    folder = resolve(model)
    base = Checkpoint.of(model, folder, dtype)
    context = base.config.max_position_embeddings
    texts = encode_samples(chosen_by, base.tokenizer, context)
    canvases = masked_canvases(encode_samples(judged_by, base.tokenizer, context), base.tokenizer.mask_id)
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("torch_dtype")
    calibrator = Calibrator(folder, base.tokenizer, texts, dtype=DTYPES.get(stated))
    print(f"{'':12} {'bits':>6} {'KL':>9} {'order':>6} {'top-1':>6}   calibrated {'bits':>6} {'KL':>9} {'order':>6} {'top-1':>6}")
    rows = {}
    with tempfile.TemporaryDirectory(prefix="calibration-") as parent:
        for name, row in _pairs(base, calibrator, canvases, names, Path(parent)):
            rows[name] = row
            print(f"{name:12} {_numbers(row['plain'])}   {'':10} {_numbers(row['calibrated'])}", flush=True)
    counts = {"calibration_texts": len(texts), "texts": len(judged_by), "canvases": len(canvases)}
    return {"model": model, "dtype": dtype, **counts, "rows": rows}


def _pairs(base: Any, calibrator: Any, canvases: Any, names: list[str], parent: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from mlx_diffucoder.convert import ConvertConfig, convert
    from mlx_diffucoder.evaluation.compare import Checkpoint, compare

    for name in names:
        how: dict[str, Any] = {"q_bits": int(name)} if name.isdigit() else {"quant_predicate": name}
        plain = convert(base.folder, parent / name, ConvertConfig(quantize=True, **how))
        before = Checkpoint.of(name, plain, base.dtype)
        began = time.perf_counter()
        chosen = calibrator.choose(before.bits_per_weight)
        seconds = time.perf_counter() - began
        print(f"{name}: chosen in {format_seconds(seconds)}", file=sys.stderr, flush=True)
        config = ConvertConfig(quantize=True, widths=chosen.widths)
        after = Checkpoint.of(name, convert(base.folder, parent / f"{name}-calibrated", config), base.dtype)
        found = [one.overall for one in compare(base, [before, after], canvases)]
        both = zip(("plain", "calibrated"), (before, after), found, strict=True)
        row: dict[str, Any] = {which: _row(checkpoint, one) for which, checkpoint, one in both}
        yield name, {**row, "seconds": seconds, "calibration": chosen.to_dict()}


def _row(checkpoint: Any, found: Any) -> dict[str, Any]:
    size = {"bytes": checkpoint.bytes_on_disk, "bits_per_weight": checkpoint.bits_per_weight}
    return {**size, **{name: getattr(found, name) for name in ("kl", "kl_interval", "order", "order_interval", "top1", "first")}}


def _numbers(row: dict[str, Any]) -> str:
    return f"{row['bits_per_weight']:6.3f} {row['kl']:9.3g} {100 * row['order']:6.2f} {100 * row['top1']:6.2f}"


if __name__ == "__main__":
    typer.run(main)
