"""matplotlib, which is imported only to draw a picture."""

from functools import partial
from pathlib import Path
from typing import Any

from .errors import ExecutionError
from .files import check_output, write_output

MARK = "plotted by diffucode"
"""In every picture and page, so that no other file is replaced."""


def plotter() -> Any:
    """matplotlib's pyplot, drawing to files only. Raises `ExecutionError` where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ExecutionError("the picture needs matplotlib: pip install 'mlx-diffucoder[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def check_plot(path: Path, *, flag: str) -> None:
    """Raise `FileError` if a plot cannot be written later, or the file exists and is not a plot of this program."""
    check_output(path, MARK, "a plot by diffucode", flag=flag)


def save_plot(figure: Any, path: Path, *, flag: str, dpi: int = 150) -> None:
    """Write a figure, whole or not at all. Raises `FileError`, which names the flag and the file."""
    key = "Software" if path.suffix.lower() == ".png" else "Creator"
    write_output(path, partial(figure.savefig, dpi=dpi, metadata={key: MARK}), flag=flag)
