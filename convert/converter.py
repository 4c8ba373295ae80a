"""The conversion itself: read lazily, cast, quantize, write beside, rename."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn

from mlx_diffucoder.checkpoint import QUANTIZATIONS, build
from mlx_diffucoder.errors import ConfigError, ConvertError
from mlx_diffucoder.loading import DTYPES, Download, resolve
from mlx_diffucoder.model import Dream
from mlx_diffucoder.tokenizer import Tokenizer

from .card import write_card

# Copied as they are where the source has them; `Tokenizer.save` writes the rest. Never code.
COPIED = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What to make of a checkpoint; the fields are mlx-lm's flags.

    Attributes:
        quantize: quantize every layer whose width the group size divides.
        q_bits, q_group_size: None is the mode's default (affine: 4 bits in groups of 64).
        q_mode: `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
        dtype: of what is not quantized; None is what the source's `config.json` states.

    Raises:
        ConfigError: a combination that MLX does not have, by the field's name.
    """

    quantize: bool = False
    q_bits: int | None = None
    q_group_size: int | None = None
    q_mode: str = "affine"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.q_mode not in QUANTIZATIONS:
            raise ConfigError(f"q_mode must be one of {', '.join(QUANTIZATIONS)}, not {self.q_mode!r}", field="q_mode")
        groups, bits = QUANTIZATIONS[self.q_mode]
        for field, allowed in (("q_bits", bits), ("q_group_size", groups)):
            value = getattr(self, field)
            if value is not None and value not in allowed:
                choices = ", ".join(map(str, sorted(allowed)))
                raise ConfigError(f"{field} must be one of {choices} in mode {self.q_mode}, not {value}", field=field)
            if value is not None and not self.quantize:
                raise ConfigError(f"{field} needs quantize (-q)", field=field)
        if self.q_mode != "affine" and not self.quantize:
            raise ConfigError("q_mode needs quantize (-q)", field="q_mode")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}", field="dtype")


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    before_download: Callable[[Download], None] | None = None,
) -> Path:
    """Convert the checkpoint `source` (a folder or a Hub id) into the new folder `out`.

    The folder is written under another name and renamed when it is complete, so that a conversion
    that was stopped leaves nothing under `out`.

    Args:
        before_download: as `resolve` has it.

    Returns:
        The folder `out`.

    Raises:
        ConvertError: `out` exists or cannot be written, or `source` is quantized already and is
            to be quantized again.
        CheckpointError, ConfigError, HubError: `source` cannot be loaded.
    """
    config = config or ConvertConfig()
    out = Path(out)
    with _written_beside(out) as unfinished:  # first: nothing is downloaded for a folder that cannot be written
        folder = resolve(source, before_download=before_download)
        tokenizer = Tokenizer.load(folder)
        model, settings = build(folder)
        if config.quantize and "quantization" in settings:
            raise ConvertError(f"{source}: is quantized already; convert the original checkpoint")
        converted, settings = _transform(model, settings, config)
        _write(unfinished, folder, str(source), converted, tokenizer, settings)
    return out.expanduser()


def _transform(model: Dream, settings: dict[str, Any], config: ConvertConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Cast and quantize. Nothing is computed yet: MLX does both while it writes."""
    from mlx_lm.utils import quantize_model

    # It names Python files that are not copied, to be downloaded and run.
    settings = {key: value for key, value in settings.items() if key != "auto_map"}
    dtype = config.dtype or settings.get("torch_dtype") or settings.get("dtype")
    if isinstance(dtype, str) and dtype in DTYPES:
        model.set_dtype(DTYPES[dtype])
        settings["torch_dtype"] = dtype
    if not config.quantize:
        return model, settings
    groups, bits = QUANTIZATIONS[config.q_mode]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints; our stdout is for results
        return quantize_model(
            model=model,
            config=settings,
            group_size=config.q_group_size or groups[0],
            bits=config.q_bits or bits[0],
            mode=config.q_mode,
        )


@contextlib.contextmanager
def _written_beside(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when all went well, and is removed otherwise."""
    try:
        out = out.expanduser()
        if out.exists() or out.is_symlink():
            raise ConvertError(f"{out}: exists already; name a new folder or remove it first")
        out.parent.mkdir(parents=True, exist_ok=True)
        str(out).encode()  # MLX takes no names that are not UTF-8
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".unfinished", dir=out.parent))
    except (OSError, RuntimeError, ValueError) as error:
        raise ConvertError(f"{str(out)[:200]}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        unfinished.rename(out)
    except OSError as error:
        file = Path(error.filename) if isinstance(error.filename, str) else out
        ours = file == out or unfinished in (file, *file.parents)
        what = f"{out}: cannot be written" if ours else f"{file}: cannot be read"
        raise ConvertError(f"{what} ({error.strerror or error})") from None
    except RuntimeError as error:  # MLX's way of saying that the disk is full
        raise ConvertError(f"{out}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # gone already when it was renamed


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(out: Path, source: Path, name: str, model: nn.Module, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    from mlx_lm.utils import save_config, save_model

    save_model(save_path=out, model=model, donate_model=True)
    for file in COPIED:
        if (source / file).exists():
            shutil.copyfile(source / file, out / file)
    tokenizer.save(out)
    write_card(out, source=source, name=name, settings=settings)
    save_config(config=settings, config_path=out / "config.json")
