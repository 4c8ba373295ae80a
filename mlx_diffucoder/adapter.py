"""Adapters: small trained weights (LoRA, DoRA) for a checkpoint, in mlx-lm's file layout.

A folder holds `adapters.safetensors` and `adapter_config.json`, as mlx-lm writes and reads them. One more entry in the
configuration, `diffucoder_base`, names the checkpoint that the adapter belongs to. An adapter without it is checked by its
shapes alone. `diffucoder_decoding` names the rule and the window that it was trained for. `diffucoder_gate` is `masks` for an
adapter that acts on the rows of masks only, see `gated`. Adapters in PEFT's layout are read too, see `peft`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlx.utils import tree_flatten

from .checkpoint import DECODING, hub_name, prefer, weights_digest
from .config import FORCING, is_number
from .errors import CheckpointError
from .files import read_json
from .models.transformer import DiffusionModel
from .peft import LARGEST, apply_peft, shapes_in
from .weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

WEIGHTS, CONFIG = ADAPTER_WEIGHTS[1], ADAPTER_CONFIG
BASE, GATE = "diffucoder_base", "diffucoder_gate"
KINDS = ("lora", "dora")
LEAVES = ("lora_a", "lora_b", "m")


_D2F = {"rule": FORCING[0], "window": FORCING[1]}
_GREEDY = {"temperature": 0.0, "top_p": 1.0}
KNOWN: Mapping[str, tuple[Mapping[str, str], Mapping[str, Any]]] = {
    "SJTU-Deng-Lab/D2F_DiffuCoder_Instruct_7B_Lora": (
        _D2F,
        {"rule": "forcing:skip=0.9", "window": "forcing:block=32,add=0.3,decoded=0.95", **_GREEDY},
    ),
    "SJTU-Deng-Lab/D2F_Dream_Base_7B_Lora": (
        _D2F,
        {"rule": "forcing:skip=0.95", "window": "forcing:block=32,add=0.9,decoded=0.95", **_GREEDY},
    ),
    "SJTU-Deng-Lab/D2F_Dream_Instruct_7B_Lora": (_D2F, {}),
    "SJTU-Deng-Lab/D2F_LLaDA_Instruct_8B_Lora": (_D2F, {}),
}
"""Published adapters that were trained for another decoding, by Hub id: their defaults here, and what `published` changes."""


def decoding_of(folder: Path, config: Mapping[str, Any]) -> Any:
    """The rule and the window that the adapter in `folder` was trained for, or None where nobody says."""
    known = _known(folder)
    return config.get(DECODING) or (known and dict(known[0]))


def base_identity(model: DiffusionModel, name: str) -> dict[str, str]:
    """The entry of `adapter_config.json` that names the checkpoint an adapter belongs to."""
    return {"name": name, "weights": weights_digest(model)}


def apply_adapter(model: DiffusionModel, folder: Path, base_name: str, digest: str | None = None) -> None:
    """Add an adapter's layers and weights to a model as it was loaded, before any cast.

    Args:
        folder: in mlx-lm's layout or PEFT's.
        base_name: the name of the model, which PEFT's configuration is compared with.
        digest: the model's `weights_digest`; None reads the weights for it, if the adapter names one.

    Raises:
        CheckpointError: the folder is not an adapter, is damaged, or belongs to another model.
    """
    config = read_json(folder / CONFIG)
    if (decoding := decoding_of(folder, config)) is not None:
        prefer(model, decoding, folder / CONFIG)
    if (known := _known(folder)) and known[1]:
        model.published = MappingProxyType({**model.published, **known[1]})
    if "peft_type" in config:
        apply_peft(model, folder, config, folder / CONFIG, base_name)
        model.eval()
        return
    _check(config, folder / CONFIG)
    names = set(shapes_in(folder / WEIGHTS))
    base = config.get(BASE)
    if isinstance(base, dict) and base.get("weights") != (digest or weights_digest(model)):
        raise CheckpointError(f"{folder}: the adapter belongs to another model, {base.get('name')}; name that one with --model")
    from mlx_lm.tuner.utils import load_adapters

    try:
        load_adapters(model=model, adapter_path=str(folder))
    except ValueError as error:  # mlx-lm's list of what does not fit
        raise CheckpointError(f"{folder}: the adapter belongs to another model: {str(error).splitlines()[1].strip()}") from None
    if config.get(GATE):
        from .gated import gate_adapters

        gate_adapters(model)
    if extra := sorted(names - adapter_names(model)):
        raise CheckpointError(
            f"{folder / WEIGHTS}: has {extra[0]}, for which {CONFIG} names no layer; the two do not belong together"
        )
    if missing := sorted(adapter_names(model) - names):
        raise CheckpointError(f"{folder / WEIGHTS}: lacks {missing[0]}; it is damaged, or belongs to another model")
    model.eval()


def _known(folder: Path) -> tuple[Mapping[str, str], Mapping[str, Any]] | None:
    name = hub_name(folder)
    return next((one for repo, one in KNOWN.items() if name in (repo, repo.partition("/")[2])), None)


def adapter_names(model: DiffusionModel) -> set[str]:
    """The names of a model's weights that belong to an adapter."""
    parameters: Any = tree_flatten(model.parameters())
    return {name for name, _ in parameters if name.rpartition(".")[2] in LEAVES}


def _check(config: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for an adapter's configuration that mlx-lm would fail on."""
    kind = config.get("fine_tune_type", "lora")
    if kind not in KINDS:
        raise CheckpointError(f"{path}: fine_tune_type is {kind!r}, not one of {', '.join(KINDS)}")
    if config.get(GATE, "masks") != "masks" or (GATE in config and kind != "lora"):
        raise CheckpointError(f'{path}: {GATE} is {config[GATE]!r} with {kind}; it is "masks", and only for lora')
    settings = config.get("lora_parameters")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: has no lora_parameters; is this the file of an adapter?")
    for name in ("num_layers", "rank", "scale", "dropout"):
        value: Any = (config if name == "num_layers" else settings).get(name)
        number, least = (int, 1) if name in ("num_layers", "rank") else (int | float, 0)
        if not is_number(value, number) or not least <= value <= LARGEST or (name == "dropout" and value >= 1):
            raise CheckpointError(f"{path}: {name} is {value!r}, which is not a valid number")
