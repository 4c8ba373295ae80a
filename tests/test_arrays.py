"""NumPy's arrays as MLX's."""

import ast
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import mlx_diffucoder
from mlx_diffucoder.arrays import from_numpy


@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "int32", "int64", "uint32", "float16", "float32"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_values_shape_and_type_stay(kind, shape):
    array = (np.arange(np.prod(shape)) % 3).reshape(shape).astype(kind)
    for view in (array, array.T, np.broadcast_to(array, (2, *shape))):
        made = np.array(from_numpy(view))
        assert (made.shape, made.dtype) == (view.shape, view.dtype)
        assert np.array_equal(made, view)


class Stop(BaseException):
    pass


def test_no_signal_is_lost_while_an_array_is_converted():
    raised = caught = 0

    def stop(number, frame):
        nonlocal raised
        raised += 1
        raise Stop

    array = np.ones((1, 28), dtype=bool)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0004)
                for _ in range(1000):
                    from_numpy(array)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert raised == caught > 50


@pytest.mark.parametrize("package", ["decoding", "infilling", "divergence"])
def test_where_models_run_mx_array_takes_numbers_and_lists_only(package):
    for path in (Path(mlx_diffucoder.__file__).parent / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "mx.array":
                assert isinstance(node.args[0], (ast.Constant, ast.UnaryOp, ast.List, ast.ListComp)), f"{path}:{node.lineno}"
