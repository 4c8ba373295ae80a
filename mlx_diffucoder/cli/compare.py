"""`diffucode compare`: checkpoints against a base on the same masked canvases."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import PRESETS, GenerationConfig
from ..errors import CheckpointError, ConfigError, ExecutionError
from .command import Command, examples
from .options import Dtype, Json, Quiet, Yes, among, complete_model

if TYPE_CHECKING:
    from ..data import Text
    from ..divergence.masking import Masked
    from ..evaluation.compare import Checkpoint, Comparison
    from ..tasks import Task


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checkpoint's numbers; `label` is its name as short as tells it from the others."""

    name: str
    label: str
    bytes_on_disk: int
    bits_per_weight: float
    comparison: Any = None
    passed: float | None = None
    passed_interval: tuple[float, float] | None = None


app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode compare pocket ./conversions/* --picture quality.png"))
def compare(
    base: Annotated[
        str,
        typer.Argument(
            help="What to compare with: a folder, a Hub id or pocket.", autocompletion=complete_model, show_default=False
        ),
    ],
    others: Annotated[
        list[str],
        typer.Argument(help="What is compared with it, one or more.", autocompletion=complete_model, show_default=False),
    ],
    texts: Annotated[
        Path | None,
        typer.Option(
            help="JSONL: prompt and completion, messages, text, or tasks with solutions.", show_default="80 small functions"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many texts, and tasks.")] = None,
    ratio: Annotated[
        list[float] | None,
        typer.Option(help="Share of an answer to mask, with its complement; repeatable.", show_default="0.25, 0.5, 0.75, 1"),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Pairs of masks for each ratio.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks.")] = 0,
    dtype: Dtype = None,
    by_layer: Annotated[
        bool | None,
        typer.Option("--by-layer/--whole", help="Hold one layer in memory.", show_default="where a model does not fit"),
    ] = None,
    tasks: Annotated[Path | None, typer.Option(help="Tasks for pass@1, as eval reads them.", show_default=False)] = None,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="For --tasks: run what the models write; no sandbox.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="For --tasks: the longest answer.")] = 256,
    preset: Annotated[str, typer.Option(help="For --tasks: how to decode.", autocompletion=among(PRESETS))] = "exact",
    picture: Annotated[Path | None, typer.Option(help="Draw quality against size into this file.", show_default=False)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    yes: Yes = False,
) -> int:
    """Measure how far checkpoints are from a base.

    Answers are masked in pairs of complementary masks, and both networks' distributions there compared: KL (nats), the
    most probable token, the order of commits (0.5 is chance), perplexity.
    """
    ratios = _checked(ratio)
    config = GenerationConfig.preset(preset, max_tokens=max_tokens, seed=0)
    if tasks and not allow_code_execution:
        raise ExecutionError(
            "--tasks runs the code that the models write on this machine, as you, within limits of time and memory but in no"
            " sandbox; if you accept that, add --allow-code-execution"
        )
    from .picture import check_picture, draw_picture

    pyplot = check_picture(picture) if picture else None
    from ..data import HELD_OUT, read_samples
    from ..divergence.masking import masked_canvases
    from ..evaluation.compare import compare as compare_checkpoints
    from ..tasks import read_tasks
    from .progress import waiting

    samples = read_samples(texts or HELD_OUT, limit)
    problems = read_tasks(tasks)[:limit] if tasks else []
    with waiting("reading headers"):
        first, *rest = checkpoints = _open([base, *others], dtype, yes)
    if problems and (by_layer or not all(one.fits for one in checkpoints)):
        large = next((one.name for one in checkpoints if not one.fits), base)
        raise ExecutionError(f"{large}: --tasks needs each model in memory whole; leave --tasks or --by-layer away")
    encoded = _encode(samples, checkpoints)
    canvases = masked_canvases(encoded, first.tokenizer.mask_id, ratios=ratios, draws=draws, seed=seed)
    with _progress("comparing", len(canvases) * len(checkpoints)) as advance:
        comparisons = list(compare_checkpoints(first, rest, canvases, by_layer=by_layer, advance=advance))
    rows = _rows(checkpoints, [None, *comparisons], problems, config)
    if picture:
        draw_picture(pyplot, rows[0], rows[1:], picture)
    if as_json:
        said = {"texts": str(texts or "bundled"), "seed": seed, "draws": draws, "dtype": dtype, "by_layer": by_layer}
        tried = {"tasks": str(tasks), "config": config.to_dict()} if tasks else {}
        print(json.dumps(_report(rows, encoded, canvases, said | tried), ensure_ascii=False))
    else:
        from .comparison import print_tables

        print_tables(rows, encoded, canvases)
    return 0


def _checked(ratios: Sequence[float] | None) -> Sequence[float]:
    from ..divergence.masking import RATIOS

    for ratio in ratios or ():
        if not 0.001 <= ratio <= 1:
            raise ConfigError(f"--ratio must be from 0.001 to 1, not {ratio:g}")
    return ratios or RATIOS


def _open(names: list[str], dtype: str | None, yes: bool) -> "list[Checkpoint]":
    """The named checkpoints, none of them twice and all comparable with the first."""
    from ..evaluation.compare import Checkpoint, check_comparable
    from ..loading import DTYPES, resolve
    from .model_option import check_download

    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}", field="dtype")
    folders = [resolve(name, before_download=lambda what: check_download(what, yes=yes, ask=False)) for name in names]
    seen: dict[Path, str] = {}
    for name, folder in zip(names, folders, strict=True):
        if (real := folder.resolve()) in seen:
            raise CheckpointError(f"{name}: is the same folder as {seen[real]}; name each checkpoint once")
        seen[real] = name
    opened = [Checkpoint.of(name, folder, dtype) for name, folder in zip(names, folders, strict=True)]
    for other in opened[1:]:
        check_comparable(opened[0], other)
    return opened


def _encode(samples: Any, checkpoints: "list[Checkpoint]") -> "list[Text]":
    from ..data import encode_samples

    return encode_samples(samples, checkpoints[0].tokenizer, min(one.config.max_position_embeddings for one in checkpoints))


def _rows(
    checkpoints: "list[Checkpoint]", comparisons: "Sequence[Comparison | None]", tasks: "list[Task]", config: GenerationConfig
) -> list[Row]:
    labels = _labels([one.name for one in checkpoints])
    rows = []
    with _progress("answering", len(tasks) * len(checkpoints)) if tasks else nullcontext(lambda count: None) as advance:
        for one, label, comparison in zip(checkpoints, labels, comparisons, strict=True):
            passed, interval = _pass_at_1(one, tasks, config, advance) if tasks else (None, None)
            rows.append(
                Row(
                    name=one.name,
                    label=label,
                    bytes_on_disk=one.bytes_on_disk,
                    bits_per_weight=one.bits_per_weight,
                    comparison=comparison,
                    passed=passed,
                    passed_interval=interval,
                )
            )
    return rows


def _labels(names: list[str]) -> list[str]:
    short = [Path(name).name or name for name in names]
    return short if len(set(short)) == len(short) else names


def _pass_at_1(
    checkpoint: "Checkpoint", tasks: "list[Task]", config: GenerationConfig, advance: Callable[[float], None]
) -> tuple[float | None, tuple[float, float] | None]:
    from ..evaluation import Summary, evaluate

    results = []
    for result in evaluate(checkpoint.open(), checkpoint.tokenizer, tasks, config):
        results.append(result)
        advance(1)
    summary = Summary.of(results)
    return summary.pass_at[1], summary.interval


def _progress(what: str, total: int) -> AbstractContextManager[Callable[[float], None]]:
    """A bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda count: None)
    from .progress import counting

    return counting(what, total)


def _report(rows: list[Row], texts: "list[Text]", canvases: "list[Masked]", said: dict[str, Any]) -> dict[str, Any]:
    import mlx.core as mx

    def described(row: Row) -> dict[str, Any]:
        passed = {} if row.passed is None else {"pass@1": row.passed, "pass@1_interval": row.passed_interval}
        found = {} if row.comparison is None else row.comparison.to_dict()
        return {"model": row.name, "bytes": row.bytes_on_disk, "bits_per_weight": row.bits_per_weight, **passed, **found}

    return {
        "base": {**described(rows[0]), "perplexity": rows[1].comparison.overall.perplexity},
        "checkpoints": [described(row) for row in rows[1:]],
        "text_count": len(texts),
        "answer_tokens": sum(len(text.answer) for text in texts),
        "canvases": len(canvases),
        **said,
        "peak_memory_bytes": mx.get_peak_memory(),
        "peak_resident_bytes": _peak_resident(),
    }


def _peak_resident() -> int:
    """The most memory that this process had at once, in bytes."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage counts that of whoever started the process as well
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
