"""Tasks to learn from: an English instruction, the small Python function that answers it, and its tests."""

from .making import Made, tasks

__all__ = ["Made", "tasks"]
