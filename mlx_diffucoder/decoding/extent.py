"""The memory that a canvas takes, and the check that this machine has it."""

from ..errors import PromptError
from ..formatting import format_bytes
from ..memory import memory_size
from ..models.transformer import DiffusionModel
from .step import ROWS
from .windows.base import Window


def bytes_needed(model: DiffusionModel, rows: int, known: int, masks: int, window: Window, *, plain: bool = False) -> int:
    """About how many bytes a forward of `rows` canvases needs next to the weights, at the most.

    Args:
        known: tokens of known text on each canvas.
        masks: masks on each.
        plain: for the plain reference decoder, which holds the logits of the whole canvas.
    """
    positions, candidates = window.extent(known, masks)
    # What an MLP holds of every position, who precedes whom, and the logits of a few rows; in float32.
    activations = positions * 16 * model.config.intermediate_size + candidates * candidates * 16
    return rows * activations + (rows * positions if plain else ROWS) * 16 * model.config.vocab_size


def check_memory(model: DiffusionModel, rows: int, known: int, masks: int, window: Window, *, plain: bool = False) -> None:
    """Refuse canvases that one forward cannot be held of, before MLX runs out of memory on them. Raises `PromptError`."""
    needed = bytes_needed(model, rows, known, masks, window, plain=plain)
    if needed > memory_size():
        raise PromptError(
            f"max_tokens {masks} takes about {format_bytes(needed)} on this window ({window}), and this machine"
            f" has {format_bytes(memory_size())}; ask for fewer, or for the window 'sliding'",
            field="max_tokens",
        )
