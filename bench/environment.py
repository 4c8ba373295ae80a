"""What a report of a problem needs to say about a machine, beside its card. What is not known is None."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_diffucoder.checkpoint import build
from mlx_diffucoder.errors import DiffucoderError

from .chip import Run, run_command
from .subjects import found_here

WHEELS = ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")
WIRED, SWAP, PAGES = ("sysctl", "-n", "iogpu.wired_limit_mb"), ("sysctl", "-n", "vm.swapusage"), ("vm_stat",)


def environment(run: Run = run_command) -> dict[str, Any]:
    """Wheels of MLX, what it says about the device, macOS, memory and its limits, and MLX's variables; ready for JSON."""
    wired = run(WIRED).strip()
    return {
        "wheels": {name: wheel for name in WHEELS if (wheel := _wheel(name))},
        "device_info": dict(mx.device_info()),
        "default_device": str(mx.default_device()),
        "macos": platform.mac_ver()[0] or None,
        "wired_limit_mb": int(wired) if wired.isdecimal() else None,  # 0: the system's own
        "swap": run(SWAP).strip() or None,
        "free_bytes": free_bytes(run(PAGES)),
        "variables": {name: value for name, value in os.environ.items() if name.startswith("MLX_")},
    }


def free_bytes(pages: str) -> int | None:
    """Memory that no program uses, from the output of `vm_stat`, or from the kernel where there is no such command."""
    size, free = re.search(r"page size of (\d+) bytes", pages), re.search(r"Pages free:\s+(\d+)", pages)
    if size and free:
        return int(size.group(1)) * int(free.group(1))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def weights_of(name: str) -> dict[str, Any] | None:
    """The bits of a checkpoint and the types of its weights, from the headers of its files; None if it is not here."""
    folder = found_here(name)
    if folder is None:
        return None
    try:
        model, _ = build(folder)
    except DiffucoderError as error:
        return {"name": name, "problem": str(error)}
    weights: Any = tree_flatten(model.parameters())
    types = {path: str(one.dtype).removeprefix("mlx.core.") for path, one in weights}
    return {
        "name": name,
        "bits": sorted({int(module.bits) for module in model.modules() if hasattr(module, "bits")}),
        "modes": sorted({str(module.mode) for module in model.modules() if hasattr(module, "bits")}),
        "scales": sorted({kind for path, kind in types.items() if path.endswith(".scales")}),
        "types": sorted(set(types.values())),
    }


def _wheel(name: str) -> dict[str, Any] | None:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    tags = re.findall(r"^Tag: (.+)$", found.read_text("WHEEL") or "", re.M)
    return {"version": found.version, "tags": tags}
