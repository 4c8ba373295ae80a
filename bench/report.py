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


def _keys(kind: Any, names: str) -> dict[str, Any]:
    """The names of keys, with one kind of value."""
    return dict.fromkeys(names.split(), kind)


SCHEMA: Mapping[str, Any] = {
    **_keys(str, "program made"),
    **_keys(int, "version trials"),
    "card": {**_keys(str, "chip backend system mlx"), "gpu_cores": (int, type(None)), "memory_bytes": int},
    "ceilings": {**_keys(_NUMBER, "bandwidth flops overhead"), "source": str},
    "model": {
        **_keys(str, "name dtype"),
        **_keys(int, "parameters bytes forward_parameters forward_bytes"),
        **{"random": bool, "weights": (str, type(None)), "shape": dict, "bits_per_weight": _NUMBER},
    },
    "config": dict,
    "prompts": [str],
    "delay_seconds": _NUMBER,
    "forwards": [{"rows": int, "time": _TIME, "roofline_share": _NUMBER}],
    "step": {
        **_keys(_TIME, "step gap encoding"),
        **_keys(int, "prompt steps"),
        **{"parts": _keys(_NUMBER, "forward lm_head sampling host"), "sum_over_step": _SPREAD},
    },
    "decoders": [
        {
            **_keys(str, "name kind"),
            **_keys(int, "nfe positions useful_tokens"),
            **_keys(_MAYBE, "assumed_tokens_per_forward positions_per_useful_token"),
            **{"useful_tokens_per_second": _SPREAD, "ratio": (dict, type(None)), "tokens_per_forward": _NUMBER},
            "generations": [
                {
                    **_keys(int, "prompt_tokens useful_tokens nfe positions peak_memory_bytes"),
                    **_keys(_TIME, "time first_settled"),
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
        shard = self.content.get("shard")
        together = f", {shard['ranks']} with --shard {shard['shard']}" if shard else ""
        return f"{card['chip']}{cores} ({card['backend']}){together}"


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
