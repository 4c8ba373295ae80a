"""matplotlib, imported where a picture is drawn."""

from typing import Any

from .errors import ExecutionError


def plotter() -> Any:
    """matplotlib's pyplot, without a screen. Raises `ExecutionError` where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ExecutionError("the picture needs matplotlib: pip install 'mlx-diffucoder[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
