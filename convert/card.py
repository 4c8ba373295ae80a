"""The model card of a converted folder."""

import os
from pathlib import Path

from mlx_diffucoder.checkpoint import hub_name
from mlx_diffucoder.loading import local_folder, source_card

from .plan import Plan


def write_card(
    unfinished: Path,
    *,
    source: Path,
    name: str,
    title: str,
    run_as: str,
    plan: Plan,
    adapter: str | os.PathLike[str] | None = None,
) -> None:
    """Write `README.md`: where the weights come from, their licence as the source states it, how to run them.

    Args:
        source: the folder of the source checkpoint.
        name: the name or path that the user gave for it.
        adapter: the folder of an adapter that was added to the weights.
        run_as: the value for `--model` that runs the result.
    """
    from huggingface_hub import ModelCard, ModelCardData

    original = source_card(source)
    is_hub_id = local_folder(name) is None
    repo = name.partition("@")[0] if is_hub_id else None
    data = ModelCardData(
        library_name="mlx",
        pipeline_tag="text-generation",
        tags=["mlx", "code", "text-diffusion-model"],
        license=original.get("license"),
        license_name=original.get("license_name"),
        license_link=original.get("license_link"),
        base_model=repo or original.get("base_model"),
    )
    origin = f"[{name}](https://huggingface.co/{repo})" if is_hub_id else f"`{source.name}`"
    added = f", with the adapter `{hub_name(Path(adapter))}`," if adapter else ""
    text = f"# {title}\n\nConverted to MLX from {origin}{added} by mlx_diffucoder. Weights: {precision(plan)}.\n"
    if not original.get("license"):
        text += "\nThe licence of the source is not known: its folder has no model card that states it.\n"
    text += f'\nRun it with mlx_diffucoder:\n\n```bash\ndiffucode generate --model {run_as} "Write a function ..."\n```\n'
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(unfinished / "README.md")


def precision(plan: Plan) -> str:
    """How the weights are stored, in words."""
    widths = sorted(set(plan.widths.values()), key=lambda width: (width.bits, width.group_size, width.mode))
    if not widths:
        return ", ".join(sorted({layer.dtype for layer in plan.layers if layer.dtype}))
    size = f"{plan.bits_per_weight:.2f} bits per weight in all"
    return f"{' and '.join(map(str, widths))}; {size}"
