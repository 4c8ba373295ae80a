"""matplotlib, which is imported only to draw a picture."""

from typing import Any

from mlx_diffucoder.errors import ExecutionError


def plotter() -> Any:
    """matplotlib's pyplot, drawing to files only. Raises `ExecutionError` where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ExecutionError("the picture needs matplotlib: pip install '.[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
