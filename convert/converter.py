"""The conversion: check and plan from headers, stream into a temporary folder, rename it when it is complete."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_diffucoder.checkpoint import INDEX, build, stored_weights
from mlx_diffucoder.data import encode_samples, read_samples
from mlx_diffucoder.errors import ConvertError
from mlx_diffucoder.files import check_disk, new_folder
from mlx_diffucoder.hub import Download, Progress, headers_only
from mlx_diffucoder.installed import full_name
from mlx_diffucoder.loading import DTYPES, local_folder, resolve, resolve_adapter
from mlx_diffucoder.sample_rows import Sample
from mlx_diffucoder.tokenizer import Tokenizer
from mlx_diffucoder.tokenizer_files import copy_unchanged
from mlx_diffucoder.weight_files import data_offsets

from .adapters import Adapter
from .calibrate import Calibrator, MakeProbe, Tell
from .card import write_card
from .config import ConvertConfig
from .plan import Plan, Width, plan_of, widths_of
from .sensitivity import Probe
from .shards import ShardWriter
from .stream import Item, Stored, stream


@dataclass(frozen=True)
class Job:
    """A checked conversion, before the first weight is read."""

    folder: Path
    plan: Plan
    model: nn.Module
    settings: dict[str, Any]
    sources: dict[str, Stored]
    items: list[Item]


def make_plan(
    source: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    refresh: bool = False,
    before_download: Callable[[Download], None] | None = None,
    measuring: Tell | None = None,
    probe: MakeProbe = Probe,
) -> Plan:
    """The plan that `convert` would carry out, from the headers of the source. Only a calibration reads weights.

    Of a model on the Hub that is not in its cache, only the headers are fetched, unless there is a calibration or an adapter.

    Raises:
        DiffucoderError: as `convert`.
    """
    config, source = config or ConvertConfig(), full_name(source)
    samples = _samples(config)
    with contextlib.ExitStack() as stack:
        config = _with_folder(config, refresh=refresh, before_download=before_download)
        if config.target_bpw is None and config.adapter is None and local_folder(source) is None:
            folder = stack.enter_context(headers_only(source, refresh=refresh))
        else:
            folder = resolve(source, refresh=refresh, before_download=before_download)
        return _prepare(folder, config, Tokenizer.load(folder), samples, measuring=measuring, probe=probe).plan


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    refresh: bool = False,
    before_download: Callable[[Download], None] | None = None,
    downloading: Progress | None = None,
    before_writing: Callable[[Plan], None] | None = None,
    progress: Callable[[str, int], None] | None = None,
    measuring: Tell | None = None,
    probe: MakeProbe = Probe,
    run_as: str = "PATH-OR-ID",
) -> Path:
    """Convert the checkpoint `source` (a folder or a Hub id) into the new folder `out`, and return that.

    The weights pass through memory a few MB at a time. The folder is written under a temporary name and renamed when it is
    complete, so a stopped conversion leaves nothing at `out`. The next one removes the leftovers of a killed one.

    Args:
        refresh, before_download: as for `resolve`; `downloading` is its `progress`.
        before_writing: called with the plan; it may raise to stop the conversion.
        progress: called with a weight's name and the bytes read since the last call.
        measuring: called during calibration with the work done so far and the total.
        probe: as for `Calibrator`.
        run_as: the value for `--model` that the model card names.

    Raises:
        ConvertError: `out` exists, cannot be written or does not fit the disk, or `config` does not fit
            the source (quantized already, or nothing to quantize or dequantize).
        DiffucoderError: `source` cannot be loaded, a weight holds infinities or NaNs, no widths reach the target size,
            or the calibration texts cannot be used.
    """
    config, source, out = config or ConvertConfig(), full_name(source), Path(out)
    samples = _samples(config)
    with new_folder(out) as unfinished:  # first, so that nothing is downloaded for a folder that cannot be written
        config = _with_folder(config, refresh=refresh, progress=downloading)
        folder = resolve(source, refresh=refresh, before_download=before_download, progress=downloading)
        tokenizer = Tokenizer.load(folder)

        def check_room(size: int) -> None:
            check_disk(out, unfinished, size + _small_files(folder))

        job = _prepare(folder, config, tokenizer, samples, check_room, measuring, probe)
        check_room(job.plan.bytes_out)
        if before_writing:
            before_writing(job.plan)
        write_weights(job, unfinished, progress)
        _write_rest(job, unfinished, tokenizer, str(source), run_as, config.adapter, title=run_as if "/" in run_as else out.name)
    return out.expanduser()


def _samples(config: ConvertConfig) -> list[Sample]:
    """The calibration texts, read before anything is downloaded."""
    return read_samples(Path(config.calibrate)) if config.calibrate else []


def _with_folder(config: ConvertConfig, **how: Any) -> ConvertConfig:
    """The configuration with its adapter's folder; `how` as for `resolve_adapter`."""
    return config if config.adapter is None else replace(config, adapter=resolve_adapter(config.adapter, **how))


def _prepare(
    folder: Path,
    config: ConvertConfig,
    tokenizer: Tokenizer,
    samples: Sequence[Sample] = (),
    check_room: Callable[[int], None] | None = None,
    measuring: Tell | None = None,
    probe: MakeProbe = Probe,
) -> Job:
    model, settings = build(folder)
    adapter = Adapter(Path(config.adapter), folder) if config.adapter else None
    settings |= adapter.settings if adapter else {}
    calibration = None
    if config.target_bpw is not None:
        _check_not_quantized(model, folder)
        texts = encode_samples(samples, tokenizer, model.config.max_position_embeddings)
        calibrator = Calibrator(
            folder, tokenizer, texts, dtype=stated_dtype(settings, config)[1], adapter=adapter, tell=measuring, probe=probe
        )
        calibrator.check(config.target_bpw)
        if check_room:
            check_room(int(config.target_bpw * calibrator.parameters / 8))
        calibration = calibrator.choose(config.target_bpw)
        config = replace(config, widths=calibration.widths, target_bpw=None, calibrate=None)
    before: dict[str, mx.array] = dict(_flat(model))
    stored = stored_weights(folder, model)
    files = {file: data_offsets(file) for file in sorted({one.file for one in stored.values()})}
    sources = {
        name: Stored(stored[name].file, files[stored[name].file][stored[name].name], value.shape, value.dtype)
        for name, value in before.items()
    }
    widths = widths_of(model)
    made, settings, dtype = transform(model, settings, config, folder)
    items = sorted(_items(before, widths, made, dtype, adapter), key=lambda item: sources[item.sources[0]][:2])  # file, offset
    return Job(folder, replace(plan_of(before, made), calibration=calibration), made, settings, sources, items)


def transform(
    model: nn.Module, settings: dict[str, Any], config: ConvertConfig, folder: Path
) -> tuple[nn.Module, dict[str, Any], mx.Dtype | None]:
    """The converted model and `config.json`, by mlx-lm, and the dtype that weights are cast to.

    Nothing is computed: the lazy arrays describe what to write. A plain converter would evaluate them.
    """
    from mlx_lm.utils import dequantize_model, quantize_model

    # It names Python files to download and run; they are not copied.
    settings = {key: value for key, value in settings.items() if key != "auto_map"}
    stated, dtype = stated_dtype(settings, config)
    if dtype:
        model.set_dtype(dtype)
        settings["torch_dtype"] = stated
    if config.quantize:
        _check_not_quantized(model, folder)
    if config.dequantize:
        if not widths_of(model):
            raise ConvertError(f"{folder}: is not quantized; there is nothing to dequantize")
        settings = {key: value for key, value in settings.items() if not key.startswith("quantization")}
        model = dequantize_model(model=model)
        if dtype:
            model.set_dtype(dtype)  # the fp modes dequantize to bfloat16
    if config.quantize:
        group, bits = config.group_size, config.bits
        with contextlib.redirect_stdout(io.StringIO()):  # it prints, but stdout is for results
            model, settings = quantize_model(
                model=model,
                config=settings,
                group_size=group,
                bits=bits,
                mode=config.q_mode,
                quant_predicate=config.predicate(model),
            )
        if not widths_of(model):
            raise ConvertError(f"{folder}: no layer has rows that groups of {group} divide; choose another group size")
    return model, settings, dtype


def stated_dtype(settings: dict[str, Any], config: ConvertConfig) -> tuple[Any, mx.Dtype | None]:
    """The dtype that weights are cast to: its name and MLX's dtype. None keeps each weight's own."""
    stated = config.dtype or settings.get("torch_dtype") or settings.get("dtype")
    return stated, DTYPES.get(stated) if isinstance(stated, str) else None


def _check_not_quantized(model: nn.Module, folder: Path) -> None:
    if widths_of(model):
        raise ConvertError(f"{folder}: is quantized already; convert the original, or dequantize this one first")


def _items(
    before: dict[str, mx.array], was: dict[str, Width], model: nn.Module, dtype: mx.Dtype | None, adapter: Adapter | None
) -> Iterator[Item]:
    """How each weight of `model` is computed from those `before`, whose quantized layers are `was`."""
    after, now = dict(_flat(model)), widths_of(model)
    for name in before:
        layer, _, kind = name.rpartition(".")
        parts = [f"{layer}.{part}" for part in ("weight", "scales", "biases")]
        old, new, changed = was.get(layer), now.get(layer), adapter is not None and f"{layer}.weight" in adapter
        if name not in parts or (old == new and not changed):
            yield Item(sources=(name,), results=(name,), dtype=dtype)
        elif kind == "weight":
            yield Item(
                sources=tuple(part for part in parts if part in before),
                results=tuple(part for part in parts if part in after),
                was=old,
                change=partial(adapter.add, name) if adapter and changed else None,
                dtype=dtype,
                now=new,
            )


def write_weights(job: Job, unfinished: Path, progress: Callable[[str, int], None] | None = None) -> None:
    """Write the shards and their index, in mlx-lm's layout."""
    from mlx_lm.utils import get_total_parameters, make_shards

    shards = make_shards(weights=dict(_flat(job.model)))
    count = len(shards)
    names = ["model.safetensors"] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    with contextlib.closing(ShardWriter(unfinished, dict(zip(names, shards, strict=True)), {"format": "mlx"})) as writer:
        stream(job.items, job.sources, writer, progress)
        writer.finish()
    index = {
        "metadata": {"total_size": job.plan.bytes_out, "total_parameters": get_total_parameters(job.model)},
        "weight_map": dict(sorted((weight, name) for name, shard in zip(names, shards, strict=True) for weight in shard)),
    }
    (unfinished / INDEX).write_text(json.dumps(index, indent=4))


def _write_rest(
    job: Job, unfinished: Path, tokenizer: Tokenizer, name: str, run_as: str, adapter: str | os.PathLike[str] | None, title: str
) -> None:
    from mlx_lm.utils import save_config

    copy_unchanged(job.folder, unfinished)
    tokenizer.save(unfinished)
    write_card(unfinished, source=job.folder, name=name, adapter=adapter, title=title, run_as=run_as, plan=job.plan)
    save_config(config=job.settings, config_path=unfinished / "config.json")  # last: without it, nothing loads the folder


def _small_files(folder: Path) -> int:
    """An upper bound on the bytes of tokenizer, index, card and headers: `tokenizer.json` is three times its sources."""
    return 4 * sum(file.stat().st_size for kind in ("*.json", "*.txt", "*.jinja") for file in folder.glob(kind)) + (1 << 20)


def _flat(model: nn.Module) -> Any:
    return tree_flatten(model.parameters())
