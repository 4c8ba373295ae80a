"""Open the model that `--model` names. Asks before a large download."""

import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ..config import PUBLISHED, GenerationConfig
from ..errors import BenchError, ConfigError, HubError, TrainError
from ..formatting import format_bytes
from ..hub import Download, parse_id
from ..installed import CONVERSIONS, full_name
from ..loading import DEFAULT_MODEL, POCKET, check_dtype, load, local_folder, resolve, resolve_adapter
from ..memory import fit_of, memory_to_run, working_set
from .options import DECODING_FIELDS
from .progress import reading, waiting
from .settings import Settings
from .shard import described, load_divided
from .terminal import can_draw, note

if TYPE_CHECKING:
    from ..bench.subjects import Subject
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer
    from ..training.learners import Learner


class Opened(NamedTuple):
    """A model with its name and its tokenizer, and how to decode with it."""

    name: str
    model: "DiffusionModel"
    tokenizer: "Tokenizer"
    config: GenerationConfig


class ModelOption(NamedTuple):
    """What the options about a model say: `--model`, `--revision`, `--refresh` and `--yes`."""

    name: str | None
    revision: str | None
    refresh: bool
    yes: bool

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "ModelOption":
        """What a command's parameters say."""
        return cls(given["model"], given["revision"], given["refresh"], given["yes"])

    @property
    def full_name(self) -> str:
        """The name with its revision; without a name it is the default model."""
        return at_revision(self.name or DEFAULT_MODEL, self.revision)


def at_revision(name: str, revision: str | None) -> str:
    """What `full_name` makes of a name, as `OWNER/NAME@REVISION`. Raises `ConfigError` where a revision has no meaning."""
    name = full_name(name)
    if not revision:
        return name
    about = f"--revision {revision}"
    if local_folder(name) is not None:
        raise ConfigError(f"{about} is for models on the Hub; {name} is a folder on this machine", field="--revision")
    if "@" in name and name.partition("@")[2] != revision:
        raise ConfigError(f"{about} and {name} name two revisions; leave one out", field="--revision")
    full = f"{name.partition('@')[0]}@{revision}"
    if parse_id(full) is None:
        raise ConfigError(f"{about} is no name of a branch, tag or commit", field="--revision")
    return full


def load_named(
    wanted: ModelOption, *, dtype: str | None, adapter: str | None = None, lazy: bool = False
) -> tuple[str, "DiffusionModel", "Tokenizer"]:
    """The name of a model, the model and its tokenizer.

    Args:
        dtype, adapter, lazy: as for `load`.

    Raises:
        HubError: the download is refused, or the model does not fit.
        DiffucoderError: as `load`. A wrong `dtype` is found before the download.
    """
    check_dtype(dtype)
    own = adapter_named(adapter, wanted)  # first: it is small, and its name may be wrong
    name, folder = folder_named(wanted)
    with waiting(f"loading {name}"):
        return name, *load(folder, dtype=dtype, adapter=own, lazy=lazy, check_memory=not wanted.yes)


def open_model(context: typer.Context, config: GenerationConfig, *, verbose: bool, lazy: bool = False) -> Opened:
    """The model that a command's options name, and the configuration with what was tuned for it.

    Reads the parameters `model`, `dtype`, `adapter`, `yes` and `tuned`. Raises as `load_named`.

    Args:
        verbose: print the tuned rule and window on stderr.
        lazy: as for `load`: other machines compute.
    """
    given = context.params
    if given.get("shard"):
        name, model, tokenizer = load_divided(given)
    else:
        name, model, tokenizer = load_named(ModelOption.of(given), dtype=given["dtype"], adapter=given["adapter"], lazy=lazy)
    return Opened(name, model, tokenizer, fitted(context, config, model, verbose=verbose))


def fitted(context: typer.Context, config: GenerationConfig, model: "DiffusionModel", *, verbose: bool) -> GenerationConfig:
    """A configuration with what the model's publisher states or what was tuned for it. The arguments are as for `open_model`."""
    given = context.params
    chosen = Settings.of(context).chosen(context, ["preset", *DECODING_FIELDS])
    if "preset" in chosen and given["preset"] == PUBLISHED:
        config = with_published(config, model, chosen)
    # Not with `--no-tuned`, nor when the user names a rule or a window.
    tuned = given["tuned"] and {"rule", "window"}.isdisjoint(chosen)
    return with_tuned(config.for_model(model), model, wanted=tuned, verbose=verbose)


def with_published(config: GenerationConfig, model: "DiffusionModel", chosen: Collection[str]) -> GenerationConfig:
    """The configuration with what the model's publisher states, save for fields that the user or the command set."""
    usual, own = GenerationConfig.preset("exact"), model.published.items()
    free = {name for name, _ in own if name in config.auto or getattr(config, name) == getattr(usual, name)} - set(chosen)
    return replace(config, **{name: value for name, value in own if name in free})


def open_subject(given: dict[str, Any]) -> "Subject":
    """The model that a command's parameters name, or one of random weights if they hold a shape."""
    from ..bench.subjects import Subject, random_subject

    dtype = given["dtype"]
    check_dtype(dtype)
    if given.get("shape"):
        with waiting("drawing random weights"):
            return random_subject(given["shape"], given["bits"] or 4, dtype, given["layers"])
    if given.get("shard"):
        return Subject(*(loaded := load_divided(given)), random=False, shared=described(given, loaded[1]))
    return Subject(*load_named(ModelOption.of(given), dtype=dtype, adapter=given["adapter"]), random=False)


def open_learner(given: dict[str, Any]) -> "Learner":
    """The model to train that a command's parameters name. Under `mlx.launch` all processes meet before anything is read."""
    from ..training.learners import Tuning, from_checkpoint, from_scratch
    from ..training.parallel import launched

    config, tokenizer = given.get("from_scratch"), given.get("tokenizer")
    layers = given["layers"]
    if layers != "all" and not layers.removeprefix("-").isdecimal():
        raise TrainError(f"layers must be a number or all, not {layers!r}", field="layers")
    tuning = Tuning(
        tune=given["tune"] or ("full" if config else "lora"),
        rank=given["rank"],
        scale=given["scale"],
        dropout=given.get("dropout", 0.0),
        layers=None if layers == "all" else int(layers),
        dtype=given["dtype"],
        gated=given.get("gated", False),
    )
    launched()
    if (config is None) != (tokenizer is None):
        raise TrainError(
            "--from-scratch and --tokenizer go together: a config.json, and the folder of a tokenizer", field="--from-scratch"
        )
    if config is not None and tokenizer is not None:
        if tuning.tune != "full":
            raise TrainError(f"tune {tuning.tune} needs a trained model; from scratch it is full", field="tune")
        return from_scratch(config, tokenizer, given["seed"], tuning.dtype)
    name, folder = folder_named(ModelOption.of(given))
    return from_checkpoint(folder, name, tuning, given["seed"], unread=given["dry_run"])


def folder_named(wanted: ModelOption) -> tuple[str, Path]:
    """The name of a model and its folder. Downloads it first if necessary, with a bar."""

    def before_download(download: Download) -> None:
        check_download(download, yes=wanted.yes, ask=not wanted.name)

    with reading() as show:
        name = wanted.full_name
        return name, resolve(name, refresh=wanted.refresh, before_download=before_download, progress=show)


def adapter_named(name: str | None, wanted: ModelOption) -> Path | None:
    """The folder of the adapter that `--adapter` names, downloaded first if necessary; None for none."""

    def before_download(download: Download) -> None:
        note(f"{download.repo}: {format_bytes(download.missing)} to download into {download.folder}")

    if name is None:
        return None
    with reading() as show:
        return resolve_adapter(name, refresh=wanted.refresh, before_download=before_download, progress=show)


def with_tuned(config: GenerationConfig, model: "DiffusionModel", *, wanted: bool, verbose: bool) -> GenerationConfig:
    """The configuration with what `bench tune` stored for this machine, model and preset, if there is something.

    Prints a note on stderr when a stored profile cannot be used.

    Args:
        wanted: False if the user named a rule or a window, or wants none that was tuned.
        verbose: name both on stderr.
    """
    from ..bench.profiles import tuned_decoding

    try:
        tuned = tuned_decoding(config, model) if wanted else None
    except BenchError as error:
        note(f"note: {error}")
        return config
    if tuned is None:
        return config
    if verbose:
        note("{rule} on {window}, tuned for this machine (--no-tuned: the preset's)".format(**tuned))
    return replace(config, rule=tuned["rule"], window=tuned["window"])


def check_download(download: Download, *, yes: bool, ask: bool, converted: tuple[Path, int] | None = None) -> None:
    """Print what a download takes, and what its conversion does, check that it fits, and ask for permission.

    Args:
        yes: the user gave `--yes`: do not ask, nor refuse a model that is too large for the memory.
        ask: ask before the download.
        converted: the folder that the model is converted into, and the bytes of the result.

    Raises:
        HubError: it does not fit on the disk or in memory, or permission is refused.
    """
    steps = [(download.missing, "download", download.folder, "HF_HOME")]
    steps += [(converted[1], "write", converted[0], CONVERSIONS)] if converted else []
    steps = [step for step in steps if step[0]]
    weights = converted[1] if converted else download.total
    needed, memory = format_bytes(memory_to_run(weights)), format_bytes(working_set())
    lacks = f"{download.damaged[0]} is damaged in the cache" if download.damaged else "not on this machine"
    note(f"{download.repo}: {lacks if download.missing else 'on this machine'}")
    for size, verb, folder, _ in steps:
        note(f"  {format_bytes(size)} to {verb} into {folder} ({format_bytes(free_disk(folder))} free)")
    note(f"  about {needed} of memory to run it, of {memory} that a program may use here")
    disks: dict[int, int] = {}
    for size, _, folder, variable in steps:
        there, free = existing(folder).stat().st_dev, free_disk(folder)
        disks[there] = disks.get(there, 0) + size
        if disks[there] > free:
            raise HubError(
                f"{download.repo}: not enough disk space in {folder}: {format_bytes(disks[there])} needed, {format_bytes(free)}"
                f" free; free some, set {variable} to a folder on another disk, or use -m {POCKET}"
            )
    if fit_of(weights) == "no" and not yes:
        raise HubError(
            f"{download.repo}: not enough memory to run it: about {needed} needed, and a program may use {memory} here;"
            " name a smaller model with -m (4 bits take half of 8), or download it anyway with --yes"
        )
    if ask and not yes:
        verb = "convert" if converted else "download"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise HubError(f"{download.repo}: not {verb}ed; run again with --yes to {verb} it, or use -m {POCKET}")
        if not typer.confirm("Download and convert it?" if len(steps) > 1 else f"{verb.capitalize()} it?", err=True):
            raise HubError(f"{download.repo}: not {verb}ed; -m {POCKET} needs no download")


def show_hub_bars() -> None:
    """Show the Hub client's bars of an upload only on a terminal whose cursor can be moved."""
    import huggingface_hub.utils

    if not can_draw(sys.stderr):
        huggingface_hub.utils.disable_progress_bars()


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder
