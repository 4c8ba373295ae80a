"""The JSON that `diffucode bench run` writes: its version, its schema, and how it is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.file_kinds import read_bytes

VERSION = 3
"""It changes when a key is removed or gets another meaning. Version 2 timed forwards without a cache."""
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
    "forwards": [{"rows": int, "time": _TIME, "roofline_share": _NUMBER}],
    "step": {
        "step": _TIME,
        "parts": {"forward": _NUMBER, "lm_head": _NUMBER, "sampling": _NUMBER, "host": _NUMBER},
        "sum_over_step": _SPREAD,
        "gap": _TIME,
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
"""The keys that every file has, and the types of their values; a file may have more."""


@dataclass(frozen=True)
class Report:
    """A results file: a short name that tells it from others, and its content."""

    label: str
    content: dict[str, Any]

    @property
    def machine(self) -> str:
        """The chip, for people."""
        card = self.content["card"]
        cores = f", {card['gpu_cores']} GPU cores" if card["gpu_cores"] else ""
        return f"{card['chip']}{cores} ({card['backend']})"


def read_reports(files: list[Path]) -> list[Report]:
    """Read results files; a report's label is the file's name without its ending, or its path if two names are the same.

    Raises:
        BenchError: as `read_report`.
    """
    short = [file.stem for file in files]
    labels = short if len(set(short)) == len(short) else [str(file) for file in files]
    return [Report(label, read_report(file)) for file, label in zip(files, labels, strict=True)]


def read_report(path: Path) -> dict[str, Any]:
    """Read a results file and check it against the schema.

    Raises:
        BenchError: it cannot be read, is not a results file, is damaged, or has another version.
    """
    try:
        content = json.loads(read_bytes(path, BenchError, MOST_BYTES))
    except (ValueError, RecursionError):
        raise BenchError(
            f"{path}: damaged, or not a results file (not JSON); measure again with `diffucode bench run --out`"
        ) from None
    if not isinstance(content, dict) or "version" not in content:
        raise BenchError(f"{path}: not a results file; name one that `diffucode bench run --out` wrote")
    if content["version"] != VERSION:
        raise BenchError(
            f"{path}: a results file of version {content['version']!r}, and this program reads version {VERSION}; measure again"
            " with `diffucode bench run --out`"
        )
    for wrong in mismatches(content, SCHEMA):
        raise BenchError(f"{path}: damaged: {wrong}; measure again with `diffucode bench run --out`")
    return content


def mismatches(value: Any, schema: Any, at: str = "") -> Iterator[str]:
    """Yield a line for each place where a value does not fit the schema."""
    if isinstance(schema, Mapping):
        if not isinstance(value, dict):
            yield f"{at or 'the content'} is not an object"
            return
        for key, inner in schema.items():
            where = f"{at}.{key}" if at else key
            if key not in value:
                yield f"{where} is missing"
            else:
                yield from mismatches(value[key], inner, where)
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{at} is not a list, or is empty"
            return
        for number, one in enumerate(value):
            yield from mismatches(one, schema[0], f"{at}[{number}]")
    elif not isinstance(value, schema) or (isinstance(value, bool) and schema is not bool):
        yield f"{at} is {str(value)[:40]!r}"
    elif isinstance(value, float) and not abs(value) < float("inf"):
        yield f"{at} is {value}"
