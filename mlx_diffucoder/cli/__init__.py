"""The `diffucode` command: one file a verb, nothing heavy imported before a verb runs."""

from .app import main

__all__ = ["main"]
