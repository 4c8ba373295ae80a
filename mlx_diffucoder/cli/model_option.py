"""From the `--model` flag to a loaded model, asking before gigabytes are fetched."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..config import GenerationConfig
from ..errors import BenchError, HubError
from ..formatting import format_bytes
from ..loading import DEFAULT_MODEL, POCKET, Download, check_dtype, load, resolve
from ..memory import memory_size, memory_to_run
from .progress import waiting

if TYPE_CHECKING:
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer


def load_named(
    name: str | None,
    *,
    yes: bool,
    dtype: str | None = None,
    check: Callable[[str, Path], None] | None = None,
    adapter: Path | None = None,
) -> tuple[str, "DiffusionModel", "Tokenizer"]:
    """The model that `--model` names, or the default one, with its name; `dtype` and `adapter` as `load` has them.

    Args:
        check: called with the name and the folder before it is loaded; whatever it raises stops it.

    Raises:
        HubError: it would have to be downloaded and must not be, or does not fit.
        DiffucoderError: as `load`; of `dtype`, before anything is downloaded.
    """
    check_dtype(dtype)
    wanted, folder = folder_named(name, yes=yes)
    if check is not None:
        check(wanted, folder)
    with waiting(f"loading {wanted}"):
        return wanted, *load(folder, dtype=dtype, adapter=adapter)


def folder_named(name: str | None, *, yes: bool) -> tuple[str, Path]:
    """The name of the model that is meant, and its folder, downloaded first where it must be."""
    wanted = name or DEFAULT_MODEL

    def before_download(download: Download) -> None:
        check_download(download, yes=yes, ask=not name)

    return wanted, resolve(wanted, before_download=before_download)


def with_tuned_window(config: GenerationConfig, model: "DiffusionModel", *, wanted: bool, verbose: bool) -> GenerationConfig:
    """The configuration with the window that `bench tune` stored for this machine, model and preset, if there is one.

    A profile that cannot be used is left, with a note on stderr.

    Args:
        wanted: False if the user named a window, or wants none that was tuned.
        verbose: name the window on stderr.
    """
    from ..bench.profiles import tuned_window

    try:
        window = tuned_window(config, model) if wanted else None
    except BenchError as error:
        print(f"note: {error}", file=sys.stderr)
        return config
    if window is None:
        return config
    if verbose:
        print(f"window: {window}, tuned for this machine (--no-tuned: the preset's)", file=sys.stderr)
    return replace(config, window=window)


def check_download(download: Download, *, yes: bool, ask: bool) -> None:
    """Say what is about to be fetched, check that it fits, and ask where that is called for."""
    free, memory = free_disk(download.folder), memory_size()
    missing, needed = format_bytes(download.missing), format_bytes(memory_to_run(download.total))
    print(
        f"{download.repo} is not on this machine: {missing} to download into {download.folder}"
        f" ({format_bytes(free)} free). To run, it takes about {needed} of this machine's"
        f" {format_bytes(memory)} of memory.",
        file=sys.stderr,
    )
    if download.missing > free:
        raise HubError(
            f"{download.repo}: not enough disk, {missing} needed and {format_bytes(free)} free in {download.folder};"
            f" make room, set HF_HOME to another disk, or use -m {POCKET}"
        )
    if memory_to_run(download.total) > memory and not yes:
        raise HubError(
            f"{download.repo}: not enough memory to run it, about {needed} of {format_bytes(memory)};"
            " name a smaller one with -m (a 4-bit conversion takes half), or download it all the same with --yes"
        )
    if ask and not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise HubError(f"{download.repo}: not downloaded; run again with --yes to download it, or use -m {POCKET}")
        if not typer.confirm("Download it?", err=True):
            raise HubError(f"{download.repo}: not downloaded; -m {POCKET} needs no download")
    show_hub_bars()


def show_hub_bars() -> None:
    """The Hub client's progress bars, only where stderr is a terminal."""
    import huggingface_hub.utils

    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
