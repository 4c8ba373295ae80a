"""Time and memory of a conversion, next to the sum of its parts and to mlx-lm, on the same weights.

    python -m bench.studies.synthetic /tmp/full
    python -m bench.studies.conversion /tmp/full

Runs in turns, each in a separate process: our conversion to 4 bits; the sum of reading every weight, `mx.quantize` and
writing the result, timed separately; and `mlx_lm.convert` on the same files under a `qwen2` configuration. Prints
medians over the rounds. Memory is the peak resident size of the process. The weights are read into the page cache
before each run. Not covered: a disk that is slower than that.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_diffucoder.errors import ConvertError
from mlx_diffucoder.formatting import format_bytes, format_seconds

from .terminal import one_line

MODULE = "bench.studies.conversion"
PARTS = ("ours", "sum", "mlx-lm")


def main(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder, as bench.synthetic writes one.")],
    q_bits: Annotated[int, typer.Option()] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median is printed.")] = 3,
    scratch: Annotated[Path | None, typer.Option(help="A folder for temporary output.", show_default="next to FOLDER")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure a conversion's time and memory."""
    with one_line("conversion"):
        if part == "sum":
            print(json.dumps(sum_of_parts(folder, scratch or folder.parent, q_bits)))
            return
        if not (folder / "config.json").exists():
            raise ConvertError(f"{folder}: not a checkpoint folder; python -m bench.studies.synthetic writes one")
        with tempfile.TemporaryDirectory(dir=scratch or folder.resolve().parent, prefix="conversion-") as name:
            report = measure(folder.resolve(), Path(name), q_bits, rounds, quiet=as_json)
    print(json.dumps(report) if as_json else table(report))


def measure(folder: Path, scratch: Path, q_bits: int, rounds: int, *, quiet: bool = False) -> dict[str, Any]:
    """Run every part `rounds` times, in turns; median seconds and bytes, and their ratios."""
    qwen = as_qwen2(folder, scratch / "qwen2")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    runs: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for number in range(rounds):
        for part in PARTS:
            read_once(folder)
            runs[part].append(one_run(part, folder, qwen, scratch / "out", q_bits))
            if not quiet:
                print(f"round {number + 1}, {part}: {runs[part][-1]}", file=sys.stderr, flush=True)
    keys = {part: runs[part][0].keys() for part in PARTS}
    medians = {part: {key: statistics.median(run[key] for run in runs[part]) for key in keys[part]} for part in PARTS}
    seconds = {part: [run["seconds"] for run in runs[part]] for part in PARTS}
    return {
        "source_bytes": size,
        "q_bits": q_bits,
        "rounds": rounds,
        **medians,
        "ours_over_sum": statistics.median(a / b for a, b in zip(seconds["ours"], seconds["sum"], strict=True)),
        "ours_over_mlx_lm": statistics.median(a / b for a, b in zip(seconds["ours"], seconds["mlx-lm"], strict=True)),
    }


def one_run(part: str, folder: Path, qwen: Path, out: Path, q_bits: int) -> dict[str, Any]:
    """One process: its seconds from start to end (the sum counts its three parts only) and its memory."""
    bits = ["--q-bits", str(q_bits)]
    command = {
        "ours": ["-c", "from mlx_diffucoder.cli import main; main()", "convert", str(folder), str(out), "-q", *bits],
        "sum": ["-m", MODULE, str(folder), "--part", "sum", "--scratch", str(out.parent), *bits],
        "mlx-lm": ["-m", "mlx_lm", "convert", "--hf-path", str(qwen), "--mlx-path", str(out), "-q", *bits],
    }[part]
    os.sync()  # flush what the previous run wrote, so that this one does not wait for it
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, *command], stdout=said, stderr=errors, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)  # the one way to know a single child's memory
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        said.seek(0)
        errors.seek(0)
        if process.returncode:
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ConvertError(f"{part}: failed ({last[0] if last else process.returncode})")
        parts = json.loads(said.read()) if part == "sum" else {"seconds": seconds}
    shutil.rmtree(out, ignore_errors=True)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**parts, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak}


def read_once(folder: Path) -> None:
    """Read the weights into the page cache, as far as memory allows, so that all three start equally warm."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def sum_of_parts(folder: Path, scratch: Path, q_bits: int) -> dict[str, float]:
    """Read, quantize and write every weight in turn, timing each part separately."""
    import mlx.core as mx

    took = {"read": 0.0, "quantize": 0.0, "write": 0.0}
    with tempfile.TemporaryFile(dir=scratch, buffering=0) as out:
        for file in sorted(folder.glob("model*.safetensors")):
            arrays: Any = mx.load(str(file))
            for name in list(arrays):
                value = arrays.pop(name)
                began = time.perf_counter()
                mx.eval(value)
                took["read"] += (read := time.perf_counter()) - began
                results = mx.quantize(value, group_size=64, bits=q_bits) if value.ndim == 2 else [value]
                pieces = [one.view(mx.uint8) for one in results]
                mx.eval(pieces)
                took["quantize"] += (quantized := time.perf_counter()) - read
                for piece in pieces:
                    view = memoryview(piece).cast("B")  # type: ignore[arg-type]
                    while view:
                        view = view[out.write(view) :]
                took["write"] += time.perf_counter() - quantized
    return {**took, "seconds": sum(took.values())}


def as_qwen2(folder: Path, out: Path) -> Path:
    """Link the same shards under a configuration that mlx-lm supports: Qwen2's."""
    from mlx_diffucoder.tokenizer import Tokenizer

    out.mkdir()
    for file in folder.iterdir():
        if ".safetensors" in file.name:
            (out / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    Tokenizer.load(folder).save(out)
    return out


def table(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [f"{format_bytes(report['source_bytes'])} to {report['q_bits']} bits, medians of {report['rounds']}"]
    for part in PARTS:
        row = report[part]
        took = f"{format_seconds(row['seconds']):>8}, {format_seconds(row['cpu_seconds']):>8} of processor time"
        lines.append(f"{part:8} {took}, {format_bytes(row['peak_bytes']):>8} resident at most")
    parts = ", ".join(f"{name} {format_seconds(report['sum'][name])}" for name in ("read", "quantize", "write"))
    lines.append(f"the sum: {parts}")
    lines.append(f"ours / sum {report['ours_over_sum']:.2f}, ours / mlx-lm {report['ours_over_mlx_lm']:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
