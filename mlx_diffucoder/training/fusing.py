"""Fuse an adapter into the weights of its model."""

from pathlib import Path
from typing import Any

from mlx.utils import tree_unflatten

from ..adapter import CONFIG, GATE, apply_adapter, decoding_of
from ..checkpoint import DECODING, build, hub_name
from ..errors import ConvertError
from ..files import new_folder, read_json
from ..loading import resolve_adapter
from ..tokenizer import Tokenizer
from .learners import write_model


def fuse(folder: Path, adapter: Path, out: Path, *, dequantize: bool = False) -> None:
    """Write the checkpoint `folder` with `adapter` fused into its weights to the new folder `out`.

    Quantized layers are quantized again with the same widths, unless `dequantize` is set.

    Raises:
        CheckpointError, ConfigError: a folder cannot be loaded, or the adapter belongs to another model.
        ConvertError: `out` cannot be written, there is nothing to dequantize, or the adapter is gated.
    """
    with new_folder(out) as unfinished:
        model, raw = build(folder)
        quantized = bool(raw.get("quantization") or raw.get("quantization_config"))
        if dequantize and not quantized:
            raise ConvertError("dequantize: the model is not quantized", field="dequantize")
        tokenizer = Tokenizer.load(folder)
        adapter = resolve_adapter(adapter)
        apply_adapter(model, adapter, hub_name(folder))
        config = read_json(adapter / CONFIG)
        if config.get(GATE):
            raise ConvertError(
                f"{adapter}: is gated: it acts on masks only, and weights act on all tokens, so it cannot be fused; use it"
                " with --adapter"
            )
        fused: Any = [(name, one.fuse(dequantize=dequantize)) for name, one in model.named_modules() if hasattr(one, "fuse")]
        model.update_modules(tree_unflatten(fused))
        decoding = decoding_of(adapter, config)
        settings = raw if decoding is None else raw | {DECODING: decoding}
        if dequantize:
            from mlx_lm.utils import dequantize_model

            dequantize_model(model)
            settings = {key: value for key, value in settings.items() if not key.startswith("quantization")}
        write_model(unfinished, model, settings=settings, tokenizer=tokenizer, source=folder)
