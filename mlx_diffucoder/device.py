"""What MLX computes on. Tests put other functions in the place of these."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def on_gpu() -> bool:
    """Whether MLX computes on a GPU."""
    return mx.default_device().type == mx.DeviceType.gpu


def on_metal() -> bool:
    """Whether MLX computes on an Apple GPU."""
    return on_gpu() and mx.metal.is_available()


def apple_generation() -> int | None:
    """The generation of the Apple GPU that MLX computes on, 1 for M1; None on any other device, and in a virtual machine.

    `MLX_METAL_GPU_ARCH`, which makes MLX choose kernels as for another GPU, counts as that GPU.
    """
    if not on_metal():
        return None
    architecture = os.environ.get("MLX_METAL_GPU_ARCH") or str(mx.device_info().get("architecture", ""))
    found = re.match(r"applegpu_g(\d+)", architecture)  # g13 is an M1's
    return int(found.group(1)) - 12 if found else None


@contextmanager
def synchronized() -> Iterator[None]:
    """Wait at the end for a forward that is still running: the interpreter must not end before it."""
    try:
        yield
    finally:
        mx.synchronize()
