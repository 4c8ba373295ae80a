"""The JSON of `diffucode bench`: its version, its schema, and what makes two of them comparable."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffucoder.errors import BenchError

VERSION = 2
"""It changes when a key goes or means something else. Version 1 had no decoders side by side."""
MOST_BYTES = 50_000_000
_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_TIME = {"seconds": _NUMBER, "low": _NUMBER, "high": _NUMBER, "trials": int}
_SPREAD = {"median": _NUMBER, "low": _NUMBER, "high": _NUMBER}

SCHEMA: Mapping[str, Any] = {
    "version": int,
    "program": str,
    "made": str,
    "card": {"chip": str, "backend": str, "gpu_cores": (int, type(None)), "memory_bytes": int, "system": str, "mlx": str},
    "ceilings": {"bandwidth": _NUMBER, "flops": _NUMBER, "overhead": _NUMBER, "source": str},
    "model": {
        "name": str,
        "random": bool,
        "weights": (str, type(None)),
        "shape": dict,
        "parameters": int,
        "bytes": int,
        "forward_parameters": int,
        "forward_bytes": int,
        "bits_per_weight": _NUMBER,
        "dtype": str,
    },
    "config": dict,
    "prompts": [str],
    "trials": int,
    "delay_seconds": _NUMBER,
    "forwards": [{"positions": int, "time": _TIME, "roofline_share": _NUMBER}],
    "step": {
        "step": _TIME,
        "parts": {"forward": _NUMBER, "lm_head": _NUMBER, "sampling": _NUMBER, "host": _NUMBER},
        "sum_over_step": _SPREAD,
        "encoding": _TIME,
        "prompt": int,
        "steps": int,
    },
    "decoders": [
        {
            "name": str,
            "kind": str,
            "assumed_tokens_per_forward": _MAYBE,
            "useful_tokens_per_second": _SPREAD,
            "ratio": (dict, type(None)),
            "nfe": int,
            "positions": int,
            "useful_tokens": int,
            "tokens_per_forward": _NUMBER,
            "positions_per_useful_token": _MAYBE,
            "generations": [
                {
                    "prompt_tokens": int,
                    "useful_tokens": int,
                    "nfe": int,
                    "positions": int,
                    "time": _TIME,
                    "first_settled": _TIME,
                    "peak_memory_bytes": int,
                    "roofline_share": _NUMBER,
                }
            ],
        }
    ],
}
"""Every key that is always there, and the type of its value; others may stand beside them."""


@dataclass(frozen=True)
class Report:
    """A bench file: its name, as short as tells it from others, and what it holds."""

    label: str
    content: dict[str, Any]

    @property
    def machine(self) -> str:
        """The chip, for people."""
        card = self.content["card"]
        cores = f", {card['gpu_cores']} GPU cores" if card["gpu_cores"] else ""
        return f"{card['chip']}{cores} ({card['backend']})"


def read_report(path: Path) -> dict[str, Any]:
    """A bench file, checked against the schema.

    Raises:
        BenchError: it cannot be read, is no bench file, is damaged, or is of another version.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BenchError(f"{path}: too large for a bench file; name one that `diffucode bench --out` wrote")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise BenchError(f"{path}: damaged, or no bench file: no JSON; measure again with `diffucode bench --out`") from None
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(content, dict) or "version" not in content:
        raise BenchError(f"{path}: no bench file; name one that `diffucode bench --out` wrote")
    if version != VERSION:
        raise BenchError(
            f"{path}: a bench file of version {version!r}, and this program reads version {VERSION}; measure again"
            " with `diffucode bench --out`"
        )
    for wrong in mismatches(content, SCHEMA):
        raise BenchError(f"{path}: damaged: {wrong}; measure again with `diffucode bench --out`")
    return content


def mismatches(value: Any, schema: Any, at: str = "") -> Iterator[str]:
    """Where a value is not what a schema says, a line each."""
    if isinstance(schema, Mapping):
        if not isinstance(value, dict):
            yield f"{at or 'the whole'} is no object"
            return
        for key, inner in schema.items():
            where = f"{at}.{key}" if at else key
            if key not in value:
                yield f"{where} is missing"
            else:
                yield from mismatches(value[key], inner, where)
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{at} is no list of any length"
            return
        for number, one in enumerate(value):
            yield from mismatches(one, schema[0], f"{at}[{number}]")
    elif not isinstance(value, schema) or (isinstance(value, bool) and schema is not bool):
        yield f"{at} is {str(value)[:40]!r}"
    elif isinstance(value, float) and not abs(value) < float("inf"):
        yield f"{at} is {value}"


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What was measured differently in two reports: a line for each thing that differs; none where they are comparable.

    The machine and its software may differ: that is what is compared.
    """
    found, own, its = list[str](), one["model"], other["model"]
    if own["shape"] != its["shape"]:
        found.append(f"a network of {_size(own)}, not of {_size(its)}")
    if abs(own["bits_per_weight"] - its["bits_per_weight"]) > 0.01:
        found.append(f"{own['bits_per_weight']:.2f} bits a weight, not {its['bits_per_weight']:.2f}")
    if own["dtype"] != its["dtype"]:
        found.append(f"computed in {own['dtype']}, not in {its['dtype']}")
    if own["random"] != its["random"] or (not found and own["weights"] != its["weights"]):
        found.append("other weights")
    for key in sorted(one["config"].keys() | other["config"].keys()):
        if one["config"].get(key) != other["config"].get(key):
            found.append(f"{key} {one['config'].get(key)}, not {other['config'].get(key)}")
    if one["prompts"] != other["prompts"]:
        found.append("other prompts")
    return found


def _size(model: dict[str, Any]) -> str:
    shape = model["shape"]
    return f"{model['parameters'] / 1e6:.1f}M parameters in {shape.get('num_hidden_layers')} layers"


def comparable_rows(reports: list[Report]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """The decoders by name, each with its row of every report, None where a report has none of them."""
    names = dict.fromkeys(row["name"] for report in reports for row in report.content["decoders"])
    return [
        (name, [next((row for row in report.content["decoders"] if row["name"] == name), None) for report in reports])
        for name in names
    ]
