"""Tasks to learn from: an English instruction, the small Python function that answers it, and its tests."""

from .drawing import tasks
from .making import Made

__all__ = ["Made", "tasks"]
