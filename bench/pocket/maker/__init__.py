"""Tasks to learn from: an English instruction, the small Python function that answers it, and its tests."""

from bench.pocket.maker.drawing import tasks
from bench.pocket.maker.making import Made

__all__ = ["Made", "tasks"]
