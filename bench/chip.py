"""The chip card: what this machine is, read from its own commands.

The parsers are pure functions of the commands' output. What a machine does not report (a command is missing, hangs or
prints something else) is None on the card, never a guess.
"""

import json
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mlx_diffucoder.formatting import format_bytes

SECONDS = 5.0
"""How long a command may take; one that takes longer is treated as missing."""
SYSCTL = ("sysctl", "hw.memsize", "machdep.cpu.brand_string", "kern.osproductversion")
DISPLAYS = ("system_profiler", "-json", "SPDisplaysDataType")
POWER, BATTERY, THERMAL = ("pmset", "-g"), ("pmset", "-g", "batt"), ("pmset", "-g", "therm")

Run = Callable[[tuple[str, ...]], str]
"""Runs a command and returns what it printed, or an empty string if it cannot be run."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A machine, as far as it is known.

    Attributes:
        chip: its name, as the machine reports it.
        backend: what MLX computes on: Metal, CUDA or CPU.
        gpu_cores: GPU cores, on a Mac.
        memory_bytes: unified memory on a Mac, the GPU's own with CUDA, otherwise the machine's.
        system: the operating system with its version.
        mlx: MLX's version.
        power: the power source, `AC Power` or `Battery Power`.
        low_power_mode: whether the system saves power.
        thermal: `nominal`, or how the chip is slowed down by heat.
    """

    chip: str
    backend: str
    gpu_cores: int | None
    memory_bytes: int
    system: str
    mlx: str
    power: str | None = None
    low_power_mode: bool | None = None
    thermal: str | None = None

    @property
    def warnings(self) -> list[str]:
        """Why a measurement on this machine would be slower now than it could be."""
        found = []
        if self.power == "Battery Power":
            found.append("on battery: plug it in before measuring")
        if self.low_power_mode:
            found.append("low-power mode is on: switch it off before measuring")
        if self.thermal not in (None, "nominal"):
            found.append(f"slowed down by heat ({self.thermal}): let it cool before measuring")
        return found

    def lines(self) -> list[str]:
        """Lines for people: a label and the value."""
        cores = f", {self.gpu_cores} GPU cores" if self.gpu_cores else ""
        saving = {True: ", low-power mode", False: "", None: ""}[self.low_power_mode]
        rows = {
            "chip": f"{self.chip}{cores} ({self.backend})",
            "memory": format_bytes(self.memory_bytes),
            "system": f"{self.system}, MLX {self.mlx}",
            "power": f"{self.power or 'not known'}{saving}",
            "thermal": self.thermal or "not known",
        }
        return [f"{label:10} {value}" for label, value in rows.items()]


def read_card() -> Card:
    """Read this machine's card."""
    import mlx.core as mx

    from mlx_diffucoder.memory import memory_size

    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    backend = ("Metal" if mx.metal.is_available() else "CUDA") if on_gpu else "CPU"
    return card_of(mx.device_info(), backend, version("mlx"), run=run_command, memory=memory_size(), system=platform.system())


def card_of(device: Mapping[str, Any], backend: str, mlx: str, *, run: Run, memory: int, system: str) -> Card:
    """The card of a machine, from MLX's information on the device and the output of commands.

    Args:
        device: `mx.device_info()`.
        backend: Metal, CUDA or CPU.
        mlx: MLX's version.
        run: runs a command and returns what it printed.
        memory: bytes of memory, used if neither the system nor the device reports it.
        system: what `platform.system` returns.
    """
    if system != "Darwin":
        own = device.get("total_memory") or device.get("memory_size")  # the GPU's, not the host's
        size = int(own) if backend == "CUDA" and own else memory
        name = str(device.get("device_name") or platform.machine())
        return Card(
            chip=name, backend=backend, gpu_cores=None, memory_bytes=size, system=f"{system} {platform.release()}", mlx=mlx
        )
    reported = parse_sysctl(run(SYSCTL))
    return Card(
        chip=reported.get("machdep.cpu.brand_string") or str(device.get("device_name") or "unknown chip"),
        backend=backend,
        gpu_cores=parse_gpu_cores(run(DISPLAYS)),
        memory_bytes=int(reported["hw.memsize"]) if reported.get("hw.memsize", "").isdigit() else memory,
        system=f"macOS {reported.get('kern.osproductversion') or 'of an unknown version'}",
        mlx=mlx,
        power=parse_power_source(run(BATTERY)),
        low_power_mode=parse_low_power_mode(run(POWER)),
        thermal=parse_thermal(run(THERMAL)),
    )


def run_command(command: tuple[str, ...]) -> str:
    """What a command prints, or an empty string if it is missing, fails or takes longer than `SECONDS`."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")  # sysctl prints what it knows and fails for the rest


def parse_sysctl(text: str) -> dict[str, str]:
    """`hw.memsize: 38654705664` -> name and value."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon and value.strip()}


def parse_gpu_cores(text: str) -> int | None:
    """The number of GPU cores, from `system_profiler -json SPDisplaysDataType`."""
    try:
        found = json.loads(text)["SPDisplaysDataType"]
        cores = [int(one["sppci_cores"]) for one in found if isinstance(one, dict) and "sppci_cores" in one]
    except (ValueError, KeyError, TypeError):
        return None
    return max(cores, default=None)


def parse_power_source(text: str) -> str | None:
    """`Now drawing from 'AC Power'`, from `pmset -g batt`."""
    found = re.search(r"drawing from '([^']+)'", text)
    return found.group(1) if found else None


def parse_low_power_mode(text: str) -> bool | None:
    """Whether power is saved, from `pmset -g`: `lowpowermode 1`, or `powermode 1` (0 is automatic, 2 high)."""
    found = re.search(r"^\s*(?:lowpowermode|powermode)\s+(\d+)", text, re.M)
    return found.group(1) == "1" if found else None


def parse_thermal(text: str) -> str | None:
    """How heat slows the chip down, from `pmset -g therm`; `nominal` if it does not."""
    limits = dict(re.findall(r"(CPU_Speed_Limit|CPU_Scheduler_Limit)\s*=\s*(\d+)", text))
    if slow := [f"{name} {value} %" for name, value in limits.items() if int(value) < 100]:
        return ", ".join(slow)
    if level := re.search(r"thermal warning level set to (\d+)", text, re.I):
        return "nominal" if level.group(1) == "0" else f"warning level {level.group(1)}"
    return "nominal" if limits or re.search(r"no thermal warning level", text, re.I) else None
