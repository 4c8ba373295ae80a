"""From a name to a model: the bundled checkpoint, a folder, or the Hugging Face Hub.

Only this module and `convert/hub.py` talk to the Hub.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .adapter import apply_adapter
from .checkpoint import build, shards
from .errors import CheckpointError, ConfigError, HubError, did_you_mean, one_of
from .files import read_json
from .memory import memory_size
from .models import find_family
from .models.transformer import DiffusionModel
from .tokenizer import Tokenizer

DEFAULT_MODEL = "mlx-community/DiffuCoder-7B-cpGRPO-8bit"
"""The model of the command line when you name none."""
POCKET = "pocket"
"""The name of the bundled checkpoint, which is never downloaded."""
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")
"""The files to download from a Hub repository: never code."""
NO_DOWNLOAD = f"check the network and the disk, name a folder, or use -m {POCKET}, which is never downloaded"
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Download:
    """A download that `resolve` is about to start: the repository, its bytes in all, and those not in the cache."""

    repo: str
    total: int
    missing: int
    folder: Path


def load(
    name: str | os.PathLike[str] = POCKET,
    *,
    dtype: str | None = None,
    lazy: bool = False,
    adapter: str | os.PathLike[str] | None = None,
) -> tuple[DiffusionModel, Tokenizer]:
    """Load a model and its tokenizer.

    Args:
        name: `"pocket"`, a folder (the Hub's original layout or mlx-lm's converted one), or a Hub id.
        dtype: the type to compute in, `"float32"`, `"float16"` or `"bfloat16"`; None for `default_dtype`. Of
            quantized weights only the scales change.
        lazy: leave each weight in its file until it is first needed.
        adapter: the folder of an adapter of this model, as `diffucode train` writes it.

    Raises:
        HubError: the Hub cannot be reached or does not have the name.
        CheckpointError, ConfigError: the folder is incomplete, damaged, or of no family that is known; or the
            adapter is damaged, or another model's.
    """
    check_dtype(dtype)
    folder = resolve(name)
    model, _ = build(folder)
    tokenizer = Tokenizer.load(folder)
    if adapter is not None:
        apply_adapter(model, Path(adapter).expanduser())
    dtype = dtype or default_dtype(model)
    if dtype is not None:
        model.set_dtype(DTYPES[dtype])
    if not lazy:
        mx.eval(model.parameters())
    return model, tokenizer


def default_dtype(model: DiffusionModel) -> str | None:
    """The type to compute in when the user names none; None for the type of the weights.

    On a CPU it is float32, which is the fastest type there, if the weights then take at most half of the memory.
    """
    weights: Any = tree_flatten(model.parameters())
    sizes = [one.size * 4 if mx.issubdtype(one.dtype, mx.floating) else one.nbytes for _, one in weights]
    return "float32" if defaults_to_float32(sum(sizes)) else None


def defaults_to_float32(size: int) -> bool:
    """Whether weights that take `size` bytes in float32 are computed with in float32 when the user names no type."""
    return mx.default_device().type == mx.DeviceType.cpu and size <= memory_size() // 2


def check_dtype(dtype: str | None) -> None:
    """Raise `ConfigError` unless `dtype` is None or one of `DTYPES`."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype must be {one_of(list(DTYPES), dtype)}", field="dtype")


def resolve(name: str | os.PathLike[str], *, before_download: Callable[[Download], None] | None = None) -> Path:
    """The folder of a model, downloaded first if it is on the Hub and not in its cache.

    Args:
        before_download: called before a download; it may raise to stop it.

    Raises:
        CheckpointError: the name is neither a folder nor a Hub id.
        HubError: the Hub cannot be reached or does not have the model.
    """
    if name == POCKET:
        return Path(__file__).parent / "pocket"
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # too long, no permission, no such user
        raise CheckpointError(f"{os.fspath(name)[:200]}: cannot be read ({_first_line(error)})") from None
    name = os.fspath(name)
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        near = did_you_mean(name, known_models())
        raise CheckpointError(f'{name}: no such folder, and not a Hub id ("owner/name") or "{POCKET}"{near}')
    return cached(name) or _download(name, before_download)


def cached(repo: str) -> Path | None:
    """The folder of a repository in the Hub's cache, or None unless all of its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(HUB_FILES), local_files_only=True))
        shards(folder)
    except HFValidationError as error:
        raise CheckpointError(f"{repo}: no such folder, and not a valid Hub id ({_first_line(error)})") from None
    except (LocalEntryNotFoundError, CheckpointError):  # not there, or not all of it
        return None
    return folder if (folder / "config.json").exists() else None


def known_models() -> list[str]:
    """Names for `load`: the bundled model, the default, and the models in the Hub's cache that this program runs."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = [POCKET, DEFAULT_MODEL]
    for config in sorted(Path(HF_HUB_CACHE).glob("models--*--*/snapshots/*/config.json")):
        name = config.parents[2].name.removeprefix("models--").replace("--", "/", 1)
        with suppress(CheckpointError):
            if name not in names and find_family(read_json(config)):
                names.append(name)
    return names


def source_card(name: str, folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint's model card (licence, base model); empty where it cannot be read."""
    from huggingface_hub import HfApi, ModelCard

    if name == POCKET or Path(name).expanduser().exists():
        card = folder / "README.md"
        return ModelCard.load(card).data.to_dict() if card.is_file() else {}
    try:
        with hub_errors(name):
            data = HfApi().model_info(name).card_data
    except HubError:  # the model is in the cache, and the Hub cannot be reached
        return {}
    return data.to_dict() if data else {}


def _download(repo: str, before_download: Callable[[Download], None] | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import filter_repo_objects

    patterns = list(HUB_FILES)
    with hub_errors(repo):
        info = HfApi().model_info(repo, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = list(filter_repo_objects(sizes, allow_patterns=patterns))
    missing = [name for name in wanted if not isinstance(try_to_load_from_cache(repo, name, revision=info.sha), str)]
    if before_download is not None:
        before_download(
            Download(repo, sum(sizes[name] for name in wanted), sum(sizes[name] for name in missing), Path(HF_HUB_CACHE))
        )
    with hub_errors(repo):
        return Path(snapshot_download(repo, allow_patterns=patterns))


@contextmanager
def hub_errors(repo: str, done: str = "downloaded", advice: str = NO_DOWNLOAD) -> Iterator[None]:
    """Turn what the Hub's client raises into a `HubError` of one line that says what to do.

    Args:
        done: the participle of what is attempted with `repo`.
        advice: what to do where the reason is not known.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise HubError(f"{repo}: accept its terms on the Hub, then run `hf auth login`") from None
    except RepositoryNotFoundError:
        near = did_you_mean(repo, known_models())
        raise HubError(f"{repo}: no such model on the Hub (for a private one, run `hf auth login`){near}") from None
    except OfflineModeIsEnabled:
        raise HubError(f"{repo}: cannot be {done} while HF_HUB_OFFLINE is set; unset it, or use -m {POCKET}") from None
    except HfHubHTTPError as error:
        raise HubError(f"{repo}: the Hub refused ({_first_line(error)}); try again later") from None
    except Exception as error:  # classes of the HTTP library, which differs between versions
        raise HubError(f"{repo}: cannot be {done} ({_first_line(error)}); {advice}") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
