"""The model card of a converted folder."""

from pathlib import Path
from typing import Any

from mlx_diffucoder.loading import POCKET, source_card


def write_card(out: Path, *, source: Path, name: str, settings: dict[str, Any]) -> None:
    """Write `README.md`: where the weights come from, their licence as the source states it, how to run them."""
    from huggingface_hub import ModelCard, ModelCardData

    original = source_card(name, source)
    is_hub_id = name != POCKET and not Path(name).expanduser().exists()
    data = ModelCardData(
        library_name="mlx",
        pipeline_tag="text-generation",
        tags=["mlx", "code", "text-diffusion-model"],
        license=original.get("license"),
        license_name=original.get("license_name"),
        license_link=original.get("license_link"),
        base_model=name if is_hub_id else original.get("base_model"),
    )
    origin = f"[{name}](https://huggingface.co/{name})" if is_hub_id else f"`{source.name}`"
    text = f"# {out_name(out)}\n\nConverted to MLX from {origin} by mlx_diffucoder. Weights: {_precision(settings)}.\n"
    text += '\nRun it with mlx_diffucoder:\n\n```bash\ndiffucode generate --model PATH-OR-ID "Write a function ..."\n```\n'
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(out / "README.md")


def out_name(unfinished: Path) -> str:
    """The name a folder will have: `.NAME.xxxxxxxx.unfinished` is being written for NAME."""
    return unfinished.name.removeprefix(".").rsplit(".", 2)[0]


def _precision(settings: dict[str, Any]) -> str:
    if quantization := settings.get("quantization"):
        return f"{quantization['bits']} bits ({quantization['mode']}, groups of {quantization['group_size']})"
    return str(settings.get("torch_dtype", "as in the source"))
